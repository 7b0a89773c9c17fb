# SPDX-License-Identifier: Apache-2.0
"""OpenAI messages → the form of `/v1/infer`."""

from __future__ import annotations

from typing import Any

from alpamayo_rt.serving.body import LongTexts
from alpamayo_rt.serving.dialect import Dialect
from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.schema import ChatRequest, Driving, ImageUrl, InferRequest
from alpamayo_rt.serving.translate import Asked, ask

_NOT_AT_THE_TOP = ("images", "question", "egomotion", "nav_text", "camera_order", "num_traj_samples")
_EITHER_PLACE = ("top_k", "seed")  # those under nvext go before those at the top


def ask_chat(request: ChatRequest, question: bool, texts: LongTexts, limits: Limits, dialect: Dialect) -> Asked:
    """Check a request of `/v1/chat/completions`, or with `question` of `/v1/vqa`.

    Raises:
        Refusal: names the field.
    """
    for name in _NOT_AT_THE_TOP:
        if name in (request.model_extra or {}):
            raise Refusal(422, f"{name}: at the top, expected {_home(name)}")
    driving = request.nvext if request.nvext is not None else Driving()
    images, said = _contents(request)
    fields: dict[str, Any] = {name: getattr(driving, name) for name in Driving.model_fields}
    for name in _EITHER_PLACE:
        if name not in driving.model_fields_set:
            fields[name] = getattr(request, name)
    warnings = []
    if question:
        fields["question"] = driving.question or said or None
        if fields["question"] is None:
            raise Refusal(422, "messages: no text in the last user message, expected the question")
    elif said:
        warnings.append("messages: texts are not used to drive; navigation goes in nvext.nav_text")
    inner = InferRequest.model_construct(
        **fields,
        images=images,
        mode="answer" if question else "trajectory",
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
    )
    inner.__pydantic_extra__ = dict(driving.model_extra or {})
    asked = ask(inner, request, "nvext.", texts, limits, dialect)
    asked.warnings.extend(warnings)
    return asked


def _home(name: str) -> str:
    if name == "images":
        return "image_url parts of the messages"
    if name == "question":
        return "a text part of a message, or nvext.question"
    return f"nvext.{name}"


def _contents(request: ChatRequest) -> tuple[list[str], str]:
    """All images of the user's messages, and the text of the last of them."""
    images: list[str] = []
    said = ""
    for place, message in enumerate(request.messages):
        if message.role != "user":
            continue
        words = []
        parts = message.content if isinstance(message.content, list) else []
        if isinstance(message.content, str):
            words.append(message.content)
        for number, part in enumerate(parts):
            where = f"messages[{place}].content[{number}]"
            if part.type == "text":
                if part.text is None:
                    raise Refusal(422, f"{where}.text: missing, expected it")
                words.append(part.text)
            else:
                if part.image_url is None:
                    raise Refusal(422, f"{where}.image_url: missing, expected it")
                images.append(part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url)
        said = " ".join(word.strip() for word in words if word.strip())
    if not images:
        raise Refusal(422, "messages: no images, expected image_url parts in a user message")
    return images, said

# SPDX-License-Identifier: Apache-2.0
"""`/v1/infer`, `/v1/chat/completions`, `/v1/vqa`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from alpamayo_rt.inference import Model
from alpamayo_rt.serving.answering import answered
from alpamayo_rt.serving.body import LongTexts
from alpamayo_rt.serving.chat import ask_chat
from alpamayo_rt.serving.replies import ChatReply, ErrorReply, InferReply
from alpamayo_rt.serving.reply import chat_reply, infer_reply
from alpamayo_rt.serving.schema import ChatRequest, InferRequest, validated
from alpamayo_rt.serving.service import Prepare, Service
from alpamayo_rt.serving.streaming import Event, as_chat_chunks, as_sse
from alpamayo_rt.serving.translate import ask


def documented(body: type[BaseModel], reply: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a route whose body is read by hand."""
    refused = {status: {"model": ErrorReply, "description": text} for status, text in _REFUSED.items()}
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {
        "responses": {200: {"model": reply, "content": {"text/event-stream": {}}}} | refused,
        "response_class": Response,
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    }


_REFUSED = {
    400: "Not HTTP",
    401: "No or another token",
    404: "No such model or clip",
    408: "The body came too slowly",
    413: "The body is too long",
    415: "The body is not JSON",
    422: "A field is wrong",
    429: "The queue is full",
    500: "Internal error",
    503: "Loading, stopping, or out of memory",
    504: "The deadline has passed",
}


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["inference"])

    def read_infer(body: dict[str, Any], texts: LongTexts, model: Model) -> tuple[Prepare, bool]:
        request = validated(InferRequest, body)
        asked = ask(request, request, "", texts, service.limits, service.dialect(model))
        return partial(asked.order, service.images, model.engine.device), asked.stream

    def read_chat(question: bool, body: dict[str, Any], texts: LongTexts, model: Model) -> tuple[Prepare, bool]:
        request = validated(ChatRequest, body)
        asked = ask_chat(request, question, texts, service.limits, service.dialect(model))
        return partial(asked.order, service.images, model.engine.device), asked.stream

    @router.post("/v1/infer", **documented(InferRequest, InferReply))
    async def infer(request: Request) -> Response:
        """Drive, answer a question, or both."""
        return await answered(service, request, read_infer, infer_reply, named)

    @router.post("/v1/chat/completions", **documented(ChatRequest, ChatReply))
    async def chat_completions(request: Request) -> Response:
        """Drive, in the form of OpenAI's clients."""
        stream = partial(as_chat_chunks, content=_whole_content)
        return await answered(service, request, partial(read_chat, False), chat_reply, stream)

    @router.post("/v1/vqa", **documented(ChatRequest, ChatReply))
    async def vqa(request: Request) -> Response:
        """Answer a question, in the form of OpenAI's clients."""
        stream = partial(as_chat_chunks, content=_nothing_more)
        return await answered(service, request, partial(read_chat, True), chat_reply, stream)

    return router


def named(events: AsyncIterator[Event | None], model: str) -> AsyncIterator[bytes]:
    """Events by name; they do not say the model's."""
    return as_sse(events)


def _whole_content(reply: dict[str, Any]) -> str:
    content: str = reply["choices"][0]["message"]["content"]
    return content


def _nothing_more(reply: dict[str, Any]) -> None:
    return None

# SPDX-License-Identifier: Apache-2.0
"""What requests look like on the wire: the fields of the published NIM interface, and ours (docs/server.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alpamayo_rt.serving.refusal import Refusal

Mode = Literal["trajectory", "answer", "both"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Wire(BaseModel):
    """Fields are taken as they are, never converted; unknown ones are named in the answer's warnings."""

    model_config = ConfigDict(strict=True, extra="allow")

    def unknown(self) -> list[str]:
        """Names of the fields that nobody knows."""
        return sorted(self.model_extra or {})


class Egomotion(Wire):
    """Where the vehicle has been."""

    ego_history_xyz: list[Any] = Field(
        description="16 × 3 metres, 10 Hz, oldest first, in the ego frame of the last pose (x forward, z up)"
    )
    ego_history_rot: list[Any] = Field(
        description="16 rotations in the same frame: quaternions [w, x, y, z] or 3 × 3 matrices"
    )
    ego_future_xyz: list[Any] | None = Field(default=None, description="64 × 3, for auto_labeling")
    ego_future_rot: list[Any] | None = Field(default=None, description="64 rotations, for auto_labeling")


class Driving(Wire):
    """What `/v1/infer` has at the top and the chat endpoints have under `nvext`."""

    camera_order: list[str] | None = Field(
        default=None,
        description="camera names in the images' order; needed unless their number is the usual one",
    )
    num_frames_per_camera: int | None = Field(default=None, description="frames of each camera")
    egomotion: Egomotion | None = Field(default=None, description="needed to drive, not to answer")
    nav_text: str | None = Field(default=None, description="navigation such as “Turn left in 40m”")
    question: str | None = None
    num_traj_samples: int = Field(default=1, description="trajectories, K")
    top_k: int | None = None
    seed: int | None = Field(default=None, description="of noise and sampling; default: the server's")
    num_diffusion_steps: int = Field(default=10, description="ours: Euler steps of the flow")
    multi_seq: bool = Field(default=False, description="ours: one reasoning for each trajectory")
    guidance_weight: Finite | None = Field(default=None, description="ours: guidance on the navigation")


class Sampling(Wire):
    """How tokens are drawn, and how the answer is sent."""

    model: str | None = Field(default=None, description="one of /v1/models; default: the served one")
    max_tokens: int | None = Field(
        default=None, description="sampled tokens at most; default: 256 to drive, else the task's"
    )
    temperature: Finite = Field(default=0.6, description="0 is greedy")
    top_p: Finite = Field(default=0.98, description="likeliest tokens up to this mass")
    stream: bool = Field(default=False, description="answer as server-sent events")


class InferRequest(Driving, Sampling):
    """Body of `POST /v1/infer`."""

    images: list[str] = Field(
        description="JPEG, PNG, WebP or BMP as base64 or data URI, camera by camera, oldest frame first"
    )
    mode: Mode = "trajectory"
    task: str | None = Field(default=None, description="instead of mode, for models with more tasks")


class ImageUrl(Wire):
    """An image in a message."""

    url: str = Field(description="data:image/…;base64,…")


class Part(Wire):
    """A part of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | str | None = None


class Message(Wire):
    """A message as OpenAI's clients write it."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part] | None = None


class ChatRequest(Sampling):
    """Body of `POST /v1/chat/completions` and `POST /v1/vqa`."""

    messages: list[Message]
    top_k: int | None = None
    seed: int | None = None
    nvext: Driving | None = Field(default=None, description="driving fields; they go before those at the top")


class PageRequest(Wire):
    """Body of `POST /page/run`, what the page asks for."""

    clip: str
    t0_us: int
    mode: Mode = "trajectory"
    nav_text: str | None = None
    question: str | None = None
    num_traj_samples: int = 6
    num_diffusion_steps: int = 10
    temperature: Finite = 0.6
    seed: int = 0


W = TypeVar("W", bound=Wire)


def validated(kind: type[W], value: dict[str, Any]) -> W:
    """The body as an object.

    Raises:
        Refusal: the first field that is wrong, in one sentence.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place, given = _place(first["loc"]), _short(first["input"])
        if first["type"] == "missing":
            raise Refusal(422, f"{place}: missing, expected it") from None
        raise Refusal(422, f"{place}: {given}, {_expected(first['msg'])}") from None


_ALTERNATIVES = ("str", "ImageUrl", "list[Part]")


def _place(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in _ALTERNATIVES:
            text += f".{part}" if text else part
    return text or "(body)"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(message: str) -> str:
    message = message.removeprefix("Input should be ")
    return f"expected {message[:1].lower()}{message[1:]}"

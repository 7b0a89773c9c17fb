# SPDX-License-Identifier: Apache-2.0
"""What answers look like on the wire (docs/server.md)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    """Nothing else is in it."""

    model_config = ConfigDict(extra="forbid")


class Usage(Reply):
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Comfort(Reply):
    """The extremes along one trajectory; m/s², m/s³, rad/s, rad/s²."""

    max_braking: float = Field(description="most negative longitudinal acceleration, m/s²")
    max_acceleration: float = Field(description="m/s²")
    max_lateral_acceleration: float = Field(description="m/s², absolute")
    max_jerk: float = Field(description="m/s³")
    max_longitudinal_jerk: float = Field(description="m/s³, absolute")
    max_yaw_rate: float = Field(description="rad/s, absolute")
    max_yaw_acceleration: float = Field(description="rad/s², absolute")
    comfortable: bool = Field(description="whether nuPlan's limits are kept")


class InferReply(Reply):
    """Answer of `POST /v1/infer`."""

    id: str
    object: Literal["alpamayo.inference"]
    created: int
    model: str
    mode: Literal["trajectory", "answer", "both"]
    task: str = Field(description="what was asked; the drive's with both")
    trajectories: list[list[list[float]]] | None = Field(description="K × 64 × 3 metres, ego frame at t0")
    rotations: list[list[list[list[float]]]] | None = Field(description="K × 64 × 3 × 3")
    reasoning: list[str] | None = Field(description="one text a sequence: 1, or K with multi_seq")
    answer: str | None
    comfort_metrics: list[Comfort] | None = Field(description="one a trajectory")
    seed: int
    usage: Usage
    warnings: list[str]
    actions: list[list[list[float]]] | None = Field(description="ours: K × 64 × 2, acceleration and curvature")
    reading: dict[str, Any] | None = Field(description="ours: meta-actions, auto-label or boxes in the answer")
    stop_reasons: list[str] = Field(description="ours: finished, no_trajectory_token or limit")
    milliseconds: dict[str, float] = Field(description="ours: by stage of server and engine")


class ChatMessage(Reply):
    """What the model says."""

    role: Literal["assistant"]
    content: str = Field(description="the answer; for trajectories the JSON text of an InferReply")
    reasoning_content: str | None = Field(description="ours: the first sequence's reasoning")


class Choice(Reply):
    """The only one."""

    index: Literal[0]
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatReply(Reply):
    """Answer of `POST /v1/chat/completions` and `POST /v1/vqa`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    warnings: list[str]
    milliseconds: dict[str, float] = Field(description="ours")


class ErrorDetail(Reply):
    """As FastAPI's clients read it."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorBody(Reply):
    """As OpenAI's clients read it."""

    message: str = Field(description="one sentence: field, value, what was expected")
    type: str
    code: int


class ErrorReply(Reply):
    """Every answer that is no success."""

    error: ErrorBody
    detail: list[ErrorDetail]


class Health(Reply):
    """Answer of the health endpoints."""

    object: Literal["health.response"]
    message: str
    status: Literal["live", "ready"]


class ModelCard(Reply):
    """A name under which the model is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None


class ModelList(Reply):
    """Answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]


class Version(Reply):
    """Answer of `GET /v1/version`."""

    release: str
    api: str = Field(description="of the interface that is followed")


class License(Reply):
    """Answer of `GET /v1/license`."""

    name: str
    path: str
    size: int
    url: str
    type: Literal["file"]
    content: str


class Metadata(Reply):
    """Answer of `GET /v1/metadata`."""

    id: str
    version: str
    modelInfo: list[dict[str, Any]]
    engine: str
    precision: str
    device: str
    limits: dict[str, float]


class Manifest(Reply):
    """Answer of `GET /v1/manifest`."""

    manifest_file: str
    repository: str

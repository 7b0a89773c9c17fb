# SPDX-License-Identifier: Apache-2.0
"""From an outcome to the wire."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import torch

from alpamayo_rt.action.unicycle import yaw_of
from alpamayo_rt.evaluation.comfort import motion
from alpamayo_rt.result import Result
from alpamayo_rt.serving.order import Order, Outcome


@dataclass
class Watch:
    """Milliseconds that the server itself spends on one request."""

    milliseconds: dict[str, float] = field(default_factory=dict)
    _lap: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on `stage`."""
        now = time.perf_counter()
        self.milliseconds[stage] = (now - self._lap) * 1e3
        self._lap = now

    def header(self) -> str:
        """As a `Server-Timing` header."""
        return ", ".join(f"{stage};dur={ms:.2f}" for stage, ms in self.milliseconds.items())


def dumps(value: Any) -> bytes:
    """JSON; arrays as lists, float32 with as many digits as it has."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def array(tensor: torch.Tensor | None) -> np.ndarray:
    """What `dumps` takes, of a drive's result."""
    assert tensor is not None
    return np.ascontiguousarray(tensor.numpy())


def comfort(result: Result) -> list[dict[str, float | bool]]:
    """The extremes along each trajectory."""
    assert result.trajectories is not None
    assert result.rotations is not None
    found = motion(result.trajectories.numpy(), yaw_of(result.rotations).numpy())
    keeps = found.comfortable()
    return [
        {
            "max_braking": float(found.braking[k]),
            "max_acceleration": float(found.accelerating[k]),
            "max_lateral_acceleration": float(found.lateral[k]),
            "max_jerk": float(found.jerk[k]),
            "max_longitudinal_jerk": float(found.longitudinal_jerk[k]),
            "max_yaw_rate": float(found.yaw_rate[k]),
            "max_yaw_acceleration": float(found.yaw_acceleration[k]),
            "comfortable": bool(keeps[k]),
        }
        for k in range(len(result.trajectories))
    ]


def trajectories(result: Result) -> dict[str, Any]:
    """What is sent as soon as the model has driven."""
    return {"trajectories": array(result.trajectories)}


def infer_reply(order: Order, outcome: Outcome, model: str, watch: Watch) -> dict[str, Any]:
    """The answer of `/v1/infer` (`replies.InferReply`)."""
    driven, answered = outcome.drive, outcome.answer
    results = [r for r in (driven, answered) if r is not None]
    return {
        "id": f"infer-{uuid.uuid4().hex}",
        "object": "alpamayo.inference",
        "created": int(time.time()),
        "model": model,
        "mode": order.mode,
        "task": results[0].task,
        "trajectories": None if driven is None else array(driven.trajectories),
        "rotations": None if driven is None else array(driven.rotations),
        "reasoning": results[0].reasoning or None,
        "answer": None if answered is None else answered.answer,
        "comfort_metrics": None if driven is None else comfort(driven),
        "seed": order.settings.seed,
        "usage": usage(results),
        "warnings": order.warnings,
        "actions": None if driven is None else array(driven.actions),
        "reading": None if answered is None else answered.reading.to_json() or None,
        "stop_reasons": [reason for r in results for reason in r.stop_reasons],
        "milliseconds": milliseconds(outcome, watch),
    }


def chat_reply(order: Order, outcome: Outcome, model: str, watch: Watch) -> dict[str, Any]:
    """The answer of the chat endpoints (`replies.ChatReply`)."""
    results = [r for r in (outcome.drive, outcome.answer) if r is not None]
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": chat_content(order, outcome, model, watch),
                    "reasoning_content": None if outcome.drive is None else outcome.drive.reasoning[0],
                },
                "finish_reason": finish_reason(results),
            }
        ],
        "usage": usage(results),
        "warnings": order.warnings,
        "milliseconds": milliseconds(outcome, watch),
    }


def chat_content(order: Order, outcome: Outcome, model: str, watch: Watch) -> str:
    """An answer as it is; trajectories as the JSON text of `/v1/infer`'s answer."""
    if outcome.answer is not None:
        return outcome.answer.answer or ""
    return dumps(infer_reply(order, outcome, model, watch)).decode()


def finish_reason(results: list[Result]) -> str:
    """OpenAI's word for it."""
    return "length" if any("limit" in r.stop_reasons for r in results) else "stop"


def usage(results: list[Result]) -> dict[str, int]:
    """Tokens read and written."""
    prompt = sum(r.prompt_tokens for r in results)
    written = sum(len(tokens) for r in results for tokens in r.generated_token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def milliseconds(outcome: Outcome, watch: Watch) -> dict[str, float]:
    """By stage: the engine's own (of both inferences together), and `server_…`."""
    out: dict[str, float] = {}
    for result in (outcome.drive, outcome.answer):
        for stage, ms in (result.milliseconds if result is not None else {}).items():
            out[stage] = round(out.get(stage, 0.0) + ms, 3)
    return out | {f"server_{stage}": round(ms, 3) for stage, ms in watch.milliseconds.items()}

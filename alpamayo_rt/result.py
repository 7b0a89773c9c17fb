# SPDX-License-Identifier: Apache-2.0
"""What an inference gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from alpamayo_rt.action.unicycle import yaw_of
from alpamayo_rt.answers import Reading
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.prompt.prompt import Prompt
from alpamayo_rt.tasks import TRAJECTORY


@dataclass(frozen=True)
class Trace:
    """The intermediate values that a cache dump keeps."""

    prompt: Prompt
    hand_off: HandOff
    noise: torch.Tensor
    action: torch.Tensor
    steps: int
    unguided_prompt: Prompt | None = None
    unguided: HandOff | None = None
    guidance_weight: float | None = None


@dataclass(frozen=True)
class Result:
    """Answer to one sample; all tensors are float32 on the CPU.

    Attributes:
        reasoning: one text a sequence (1, or K in multi-sequence mode); that before the meta-actions; empty for
            the other texts.
        generated_token_ids: what each sequence wrote.
        stop_reasons: `finished`, `no_trajectory_token` or `limit`, one a sequence.
        prompt_tokens: length of the prompt.
        seed: of noise and sampling.
        milliseconds: by stage, and `total`.
        trajectories: (K, W, 3) metres in the ego frame at t0; None for a question, as the next two.
        rotations: (K, W, 3, 3).
        actions: (K, W, 2) acceleration m/s² and curvature 1/m.
        answer: what was said where no trajectories were asked for.
        task: what was asked, one of `tasks.TASK_NAMES`.
        reading: what was read from the answer: meta-actions, auto-label, boxes.
    """

    reasoning: list[str]
    generated_token_ids: list[list[int]]
    stop_reasons: list[str]
    prompt_tokens: int
    seed: int
    milliseconds: dict[str, float]
    trajectories: torch.Tensor | None = None
    rotations: torch.Tensor | None = None
    actions: torch.Tensor | None = None
    answer: str | None = None
    task: str = TRAJECTORY
    reading: Reading = field(default_factory=Reading)
    trace: Trace | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, object]:
        """The fields of a response in the result file (docs/formats.md)."""
        out: dict[str, object] = {
            "reasoning": self.reasoning,
            "generated_token_ids": self.generated_token_ids,
            "stop_reasons": self.stop_reasons,
        }
        if self.answer is not None:
            out |= {"task": self.task, "answer": self.answer, **self.reading.to_json()}
        if self.trajectories is not None and self.rotations is not None and self.actions is not None:
            actions = _rounded(self.actions)
            out["trajectories"] = _rounded(self.trajectories)
            out["yaw"] = _rounded(yaw_of(self.rotations))
            out["actions"] = actions
            out["output_trajectory"] = actions
        out["prompt_tokens"] = self.prompt_tokens
        out["seed"] = self.seed
        out["milliseconds"] = {stage: round(ms, 3) for stage, ms in self.milliseconds.items()}
        return out


def _rounded(values: torch.Tensor) -> list:
    """Nested lists with seven significant digits: as many as float32 has, and no others."""

    def cut(value: object) -> object:
        return [cut(v) for v in value] if isinstance(value, list) else float(f"{value:.7g}")

    return [cut(value) for value in values.tolist()]

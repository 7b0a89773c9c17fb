# SPDX-License-Identifier: Apache-2.0
"""The settings of one inference, checked where they enter."""

from __future__ import annotations

from dataclasses import dataclass, fields

from alpamayo_rt.errors import InputError

MAX_CANDIDATES = 1024
MAX_STEPS = 10_000
MAX_TOKENS = 16_384


@dataclass(frozen=True)
class Settings:
    """How a sample is answered; the names are those of `Model.infer`.

    Raises:
        InputError: a value is of the wrong kind or out of range.
    """

    num_candidates: int = 6
    num_diffusion_steps: int = 10
    multi_seq: bool = False
    temperature: float = 0.6
    top_p: float = 0.98
    top_k: int | None = None
    max_generate_length: int | None = None
    """None: as many as the task has (`tasks.Task.limit`)."""
    seed: int = 0
    guidance_weight: float | None = None

    def __post_init__(self) -> None:
        _whole("num_candidates", self.num_candidates, 1, MAX_CANDIDATES)
        _whole("num_diffusion_steps", self.num_diffusion_steps, 1, MAX_STEPS)
        if self.max_generate_length is not None:
            _whole("max_generate_length", self.max_generate_length, 1, MAX_TOKENS)
        _whole("seed", self.seed, 0, 2**63 - 1)
        _number("temperature", self.temperature, 0, 100)
        _number("top_p", self.top_p, 0, 1)
        if self.top_k is not None:
            _whole("top_k", self.top_k, 1, 2**31 - 1)
        if self.guidance_weight is not None:
            _number("guidance_weight", self.guidance_weight, -1000, 1000)
        if not isinstance(self.multi_seq, bool):
            raise InputError(f"multi_seq: {self.multi_seq!r}, expected true or false")


SETTING_NAMES = tuple(field.name for field in fields(Settings))


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name}: {value!r}, expected a whole number from {low} to {high}")


def _number(name: str, value: object, low: float, high: float) -> None:
    # The comparisons are false for NaN, and work for integers that are too large for a float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name}: {value!r}, expected a number from {low} to {high}")

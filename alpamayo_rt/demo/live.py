# SPDX-License-Identifier: Apache-2.0
"""`world-live:SEED:NUMBER`: clips of the demo world without video, files or kit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from alpamayo_rt.demo.arrays import FIRST_WINDOW, LAST_WINDOW
from alpamayo_rt.demo.truth import STEP_US
from alpamayo_rt.demo.world import World
from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.tasks import AUTO_LABELING, TRAJECTORY

_NAME = re.compile(r"world-live:(\d{1,9}):(\d{1,9})")


@dataclass(frozen=True)
class LiveClip:
    """One window of a test clip, drawn when it is read."""

    world: World
    number: int
    step: int

    @property
    def t0_us(self) -> int:
        """The window's time in the clip, µs."""
        return self.step * STEP_US

    def read(
        self,
        device: torch.device,
        navigation: str | None = None,
        question: str | None = None,
        task: str | None = None,
    ) -> tuple[Sample, torch.Tensor]:
        """The sample, and the true future (64, 3) in metres.

        Args:
            device: where the images are drawn and stay.
            navigation: instead of the clip's own.
            question: to answer instead of driving; then there is no navigation but the one given.
            task: what is asked; None: by the question. An auto-label is shown the true future.
        """
        drawn, truth = self.world.sample(self.number, self.step, device)
        driving = question is None and task in (None, TRAJECTORY)
        asked: dict[str, Any] = {
            "navigation": navigation or (drawn.navigation if driving else None),
            "question": question,
        }
        future = {name: torch.from_numpy(truth[name]).float() for name in ("future_xyz", "future_rot")}
        if task == AUTO_LABELING:
            asked |= {f"ego_{name}": poses for name, poses in future.items()}
        return drawn.replaced(task=task, **asked), future["future_xyz"]


def live_clip(name: str, t0_us: int | None = None) -> LiveClip:
    """Find a live clip.

    Args:
        name: `world-live:SEED:NUMBER`, of the test split.
        t0_us: the window, a multiple of 100,000 µs; None for the clip's own.

    Raises:
        InputError: the name or the time is not one of the world's.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"clip: {name!r}, expected world-live:SEED:NUMBER")
    world, number = World(int(match[1]), "test"), int(match[2])
    step = int(world.scene(number).t0) if t0_us is None else t0_us // STEP_US
    if (t0_us or 0) % STEP_US or not FIRST_WINDOW <= step <= LAST_WINDOW:
        raise InputError(
            f"t0_us: {t0_us}, expected a multiple of {STEP_US} from {FIRST_WINDOW * STEP_US} "
            f"to {LAST_WINDOW * STEP_US}"
        )
    return LiveClip(world, number, step)

# SPDX-License-Identifier: Apache-2.0
"""From the scores of clips to a table of criteria."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alpamayo_rt.demo.arrays import CAUSES

ENOUGH_CANDIDATES = 5  # of six that have to end in the named branch
WORSE = 1.25  # an ablation counts as clearly worse from this factor on


@dataclass(frozen=True)
class Row:
    """One line: what, its value, what it is measured against (None: for information), over how many clips."""

    name: str
    value: float
    clips: int
    at_most: float | None = None
    at_least: float | None = None
    criterion: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the criterion is met; None without one."""
        if self.at_most is not None:
            return bool(self.value <= self.at_most)
        if self.at_least is not None:
            return bool(self.value >= self.at_least)
        return None

    def to_json(self) -> dict[str, Any]:
        """The fields and `passed`; a value that cannot be computed is null."""
        value = None if np.isnan(self.value) else round(self.value, 4)
        return {
            "name": self.name,
            "value": value,
            "clips": self.clips,
            "criterion": self.criterion,
            "bound": self.at_most if self.at_most is not None else self.at_least,
            "passed": self.passed,
        }


def summarize(clips: Sequence[dict[str, Any]]) -> list[Row]:
    """The whole table from what `score_clip` gave for each clip."""
    n = len(clips)
    errors = np.array([c["ade"] for c in clips])
    best = float(errors.min(1).mean())
    velocity = float(np.mean([c["constant_velocity"] for c in clips]))
    turning = float(np.mean([c["constant_turn_rate"] for c in clips]))
    fanned = float(np.mean([min(c["fan_ade"]) for c in clips]))
    one_shot, every = min(velocity, turning), float(errors.mean())
    half = f"≤ 0.5 × better one-shot baseline, {0.5 * one_shot:.2f}"
    rows = [
        Row("minADE6, m", best, n, at_most=0.5 * one_shot, criterion=half),
        Row("minADE6, m", best, n, at_most=0.7 * fanned, criterion=f"≤ 0.7 × fan, {0.7 * fanned:.2f}"),
        Row(
            "ADE of the first candidate, m", float(errors[:, 0].mean()), n, at_most=0.75 * one_shot,
            criterion=f"≤ 0.75 × better one-shot baseline, {0.75 * one_shot:.2f}",
        ),
        Row("minADE6 / mean ADE of the six", best / every, n, at_most=0.85, criterion="≤ 0.85"),
        Row("mean ADE of the six, m", every, n),
        Row("constant velocity, ADE, m", velocity, n),
        Row("constant turn rate and acceleration, ADE, m", turning, n),
        Row("fan, minADE, m", fanned, n),
    ]  # fmt: skip
    rows += _words(clips) + _navigation(clips)
    asked = [c for c in clips if "light" in c]
    right = _share([c["light"] == c["light_answer"] for c in asked])
    rows.append(Row("light colour answered rightly", right, len(asked), at_least=0.9, criterion="≥ 90 %"))
    for name, key in (
        ("minADE6 on black images, m", "black_ade"),
        ("minADE6, history frozen at a standstill, m", "frozen_ade"),
        ("minADE6, history frozen at its last speed, m", "steady_ade"),
        ("minADE6 with shuffled cameras, m", "shuffled_ade"),
    ):
        value = float(np.mean([min(c[key]) for c in clips]))
        limit = f"≥ {WORSE} × minADE6, {WORSE * best:.2f}"
        rows.append(Row(name, value, n, at_least=WORSE * best, criterion=limit))
    return rows


def _words(clips: Sequence[dict[str, Any]]) -> list[Row]:
    n = len(clips)
    right = _share([c["named"] == c["cause"] for c in clips])
    rows = [Row("reasoning names the cause", right, n, at_least=0.9, criterion="≥ 90 %")]
    for cause in CAUSES:
        mine = [c["named"] == cause for c in clips if c["cause"] == cause]
        rows.append(Row(f"… {cause}", _share(mine), len(mine), at_least=0.75, criterion="≥ 75 %"))
    black = _share([c["black_named"] == c["cause"] for c in clips])
    rows.append(Row("cause named on black images", black, n, at_most=0.45, criterion="≤ 45 %"))
    return rows


def _navigation(clips: Sequence[dict[str, Any]]) -> list[Row]:
    rows = []
    for name, wanted, reached in (
        ("follows the navigation", "branch", "branches"),
        ("follows swapped navigation", "swapped_branch", "swapped_branches"),
    ):
        ahead = [c for c in clips if wanted in c]
        kept = [sum(b == c[wanted] for b in c[reached]) >= ENOUGH_CANDIDATES for c in ahead]
        # Of ten to nineteen clips a single miss is already more than 5 %: there it says nothing and passes.
        bound = 1 - 1 / len(ahead) if 10 <= len(ahead) < 20 else 0.95
        criterion = "5 of 6 in ≥ 95 %" + (", or all but one" if bound < 0.95 else "")
        rows.append(Row(name, _share(kept), len(ahead), at_least=bound, criterion=criterion))
    return rows


def _share(hits: Sequence[bool]) -> float:
    return float(np.mean(hits)) if hits else float("nan")

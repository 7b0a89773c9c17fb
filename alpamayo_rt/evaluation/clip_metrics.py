# SPDX-License-Identifier: Apache-2.0
"""All metrics of one clip, and what each is called and means.

A metric of several candidates carries their number: `min_ade_6` is the best of the first six. What every run
has, whatever its number of candidates, has none: `ade_best` is the best of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alpamayo_rt.evaluation.comfort import motion
from alpamayo_rt.evaluation.metrics import (
    MISS_M,
    ade,
    corner_distance,
    displacements,
    diversity,
    heading_error,
)

HORIZONS_S = (0.5, 1.0, 3.0, 5.0, 6.4)
_DT = 0.1

LOWER, HIGHER, NEITHER = -1, 1, 0
_SHARES = ("miss_rate", "comfortable", "off_bounds", "cause_right", "branch_right")
_HIGHER = ("comfortable", "cause_right", "branch_right")
_NEITHER = ("diversity", "reasoning_tokens", "speed", "peak_")


def is_share(name: str) -> bool:
    """Whether a metric is a share of clips or candidates, from 0 to 1."""
    return name.startswith(_SHARES)


def better(name: str) -> int:
    """Which way a metric is better: LOWER, HIGHER, or NEITHER."""
    if name.startswith(_HIGHER):
        return HIGHER
    return NEITHER if name.startswith(_NEITHER) else LOWER


_LABELS = {
    "ade_best": ("ADE of the best candidate", "m"),
    "ade_mean": ("mean ADE of the candidates", "m"),
    "ade_first": ("ADE of the first candidate", "m"),
    "heading_error_deg": ("heading error of the best", "°"),
    "diversity": ("diversity, distance between candidates", "m"),
    "comfortable": ("comfortable candidates", ""),
    "peak_braking": ("hardest braking", "m/s²"),
    "peak_acceleration": ("hardest acceleration", "m/s²"),
    "peak_lateral_acceleration": ("largest lateral acceleration", "m/s²"),
    "peak_jerk": ("largest jerk", "m/s³"),
    "peak_longitudinal_jerk": ("largest longitudinal jerk", "m/s³"),
    "peak_yaw_rate": ("largest yaw rate", "rad/s"),
    "peak_yaw_acceleration": ("largest yaw acceleration", "rad/s²"),
    "off_bounds": ("actions off bounds", ""),
    "reasoning_tokens": ("length of the reasoning", "tokens"),
    "cause_right": ("reasoning names the true cause", ""),
    "branch_right": ("candidates that end in the named branch", ""),
}
_NUMBERED = {
    "min_ade": ("minADE", "m"),
    "min_fde": ("minFDE", "m"),
    "miss_rate": ("misses at 2 m, best of", ""),
    "corner_distance": ("corner distance, best of", "m"),
}


def label_of(name: str) -> tuple[str, str]:
    """What people call a metric, and its unit; "" for a share."""
    if name in _LABELS:
        return _LABELS[name]
    start, _, horizon = name.partition("_at_")
    kind, _, count = start.rpartition("_")
    text, unit = _NUMBERED.get(kind, (name, ""))
    joint = "" if text.startswith("min") else " "
    return f"{text}{joint}{count}" + (f" over {horizon[:-1]} s" if horizon else ""), unit


def horizon_name(seconds: float) -> str:
    """`0.5s`, `1s`, …"""
    return f"{seconds:g}s"


def clip_metrics(
    candidates: Any,
    headings: Any,
    truth: Any,
    true_heading: Any,
    counts: Sequence[int] = (1, 6),
    dt: float = _DT,
) -> dict[str, float]:
    """The metrics of trajectories against the driven one.

    Args:
        candidates: (K, W, 2 or 3) metres in the ego frame at t0.
        headings: (K, W) radians.
        truth: (W, 2 or 3).
        true_heading: (W,).
        counts: numbers of candidates of which the best counts; those above K are left out.
        dt: seconds between waypoints.
    """
    distances = displacements(candidates, truth)
    k, waypoints = distances.shape
    mean = ade(candidates, truth)
    corner = corner_distance(candidates, headings, truth, true_heading)
    turned = heading_error(headings, true_heading)
    best = int(mean.argmin())
    out = {"ade_best": mean[best], "ade_mean": mean.mean(), "ade_first": mean[0]}
    for count in sorted({c for c in counts if c <= k}):
        final = distances[:count, -1].min()
        out[f"min_ade_{count}"] = mean[:count].min()
        for seconds in HORIZONS_S:
            points = round(seconds / dt)
            if points <= waypoints:
                within = distances[:count, :points].mean(1).min()
                out[f"min_ade_{count}_at_{horizon_name(seconds)}"] = within
        out[f"min_fde_{count}"] = final
        out[f"miss_rate_{count}"] = float(final > MISS_M)
        out[f"corner_distance_{count}"] = corner[:count].min()
    out["heading_error_deg"] = turned[best]
    out["diversity"] = diversity(candidates)
    felt = motion(candidates, headings, dt)
    out["comfortable"] = felt.comfortable().mean()
    # Who never brakes has a peak of zero, not a negative one.
    out["peak_braking"] = np.maximum(-felt.braking, 0.0).mean()
    out["peak_acceleration"] = np.maximum(felt.accelerating, 0.0).mean()
    out["peak_lateral_acceleration"] = felt.lateral.mean()
    out["peak_jerk"], out["peak_longitudinal_jerk"] = felt.jerk.mean(), felt.longitudinal_jerk.mean()
    out["peak_yaw_rate"], out["peak_yaw_acceleration"] = felt.yaw_rate.mean(), felt.yaw_acceleration.mean()
    return {name: round(float(value), 6) for name, value in out.items()}


def off_bounds(actions: Any, accel: tuple[float, float], curvature: tuple[float, float]) -> float:
    """Share of physical actions (K, W, 2) outside the action space's bounds (m/s², 1/m); nothing is clipped."""
    a, c = np.moveaxis(np.asarray(actions, np.float64), -1, 0)
    return float(((a < accel[0]) | (a > accel[1]) | (c < curvature[0]) | (c > curvature[1])).mean())

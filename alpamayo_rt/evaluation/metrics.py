# SPDX-License-Identifier: Apache-2.0
"""How far proposed trajectories are from the driven one. Plan view: z is not looked at.

Candidates are (K, W, 2 or 3) and the truth (W, 2 or 3), metres in the ego frame at t0, x forward, y left;
headings are (K, W) and (W,) radians in the same frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

VEHICLE = (-1.4, 3.5, 2.1)
"""Rear end and front end before the pose, and width, in metres: a car whose pose lies near its rear axle."""

MISS_M = 2.0
"""A final displacement beyond this is a miss, as in Argoverse's and Waymo's motion benchmarks."""


def displacements(candidates: Any, truth: Any) -> Floats:
    """Distances in metres (K, W) of candidates (K, W, 2 or 3) from the true future (W, 2 or 3)."""
    proposed = np.asarray(candidates, np.float64)[..., :2]
    driven = np.asarray(truth, np.float64)[..., :2]
    if proposed.ndim != 3 or driven.shape != proposed.shape[1:]:
        raise ValueError(f"candidates {proposed.shape}, truth {driven.shape}, expected (K, W, 2) and (W, 2)")
    return np.asarray(np.hypot(*np.moveaxis(proposed - driven, -1, 0)))


def ade(candidates: Any, truth: Any, waypoints: int | None = None) -> Floats:
    """Average displacement error (K,) in metres of each candidate, over the first `waypoints` or all."""
    return np.asarray(displacements(candidates, truth)[:, :waypoints].mean(1))


def fde(candidates: Any, truth: Any) -> Floats:
    """Final displacement error (K,) in metres of each candidate."""
    return displacements(candidates, truth)[:, -1]


def min_ade(candidates: Any, truth: Any, first: int | None = None, waypoints: int | None = None) -> float:
    """The smallest average displacement error in metres among the `first` candidates, or all."""
    return float(ade(candidates, truth, waypoints)[:first].min())


def min_fde(candidates: Any, truth: Any, first: int | None = None) -> float:
    """The smallest final displacement error in metres among the `first` candidates, or all."""
    return float(fde(candidates, truth)[:first].min())


def corners(xy: Any, heading: Any) -> Floats:
    """The four corners (…, 4, 2) of the vehicle at poses (…, 2) with headings (…)."""
    rear, front, width = VEHICLE
    box = np.array([[front, width / 2], [front, -width / 2], [rear, -width / 2], [rear, width / 2]])
    c, s = np.cos(np.asarray(heading, np.float64)), np.sin(np.asarray(heading, np.float64))
    turned = np.stack([c[..., None] * box[:, 0] - s[..., None] * box[:, 1],
                       s[..., None] * box[:, 0] + c[..., None] * box[:, 1]], -1)  # fmt: skip
    return np.asarray(np.asarray(xy, np.float64)[..., None, :2] + turned)


def corner_distance(candidates: Any, headings: Any, truth: Any, true_heading: Any) -> Floats:
    """Mean distance (K,) in metres between the vehicle's corners along a candidate and along the truth.

    Where the displacement error sees only the pose, this one sees a wrong heading too.
    """
    proposed = corners(np.asarray(candidates)[..., :2], headings)
    driven = corners(np.asarray(truth)[..., :2], true_heading)
    return np.asarray(np.linalg.norm(proposed - driven, axis=-1).mean((-1, -2)))


def heading_error(headings: Any, true_heading: Any) -> Floats:
    """Mean absolute difference (K,) of the headings, in degrees."""
    turn = np.asarray(headings, np.float64) - np.asarray(true_heading, np.float64)
    return np.asarray(np.degrees(np.abs(np.arctan2(np.sin(turn), np.cos(turn))).mean(-1)))


def diversity(candidates: Any) -> float:
    """How far the candidates are from each other: mean over pairs and waypoints of their distance, metres."""
    xy = np.asarray(candidates, np.float64)[..., :2]
    if len(xy) < 2:
        return 0.0
    first, second = np.triu_indices(len(xy), 1)
    return float(np.linalg.norm(xy[first] - xy[second], axis=-1).mean())

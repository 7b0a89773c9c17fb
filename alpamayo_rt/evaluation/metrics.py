# SPDX-License-Identifier: Apache-2.0
"""How far proposed trajectories are from the driven one. Plan view: z is not looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def displacements(candidates: Any, truth: Any) -> Floats:
    """Distances in metres (K, W) of candidates (K, W, 2 or 3) from the true future (W, 2 or 3)."""
    proposed = np.asarray(candidates, np.float64)[..., :2]
    driven = np.asarray(truth, np.float64)[..., :2]
    if proposed.ndim != 3 or driven.shape != proposed.shape[1:]:
        raise ValueError(f"candidates {proposed.shape}, truth {driven.shape}, expected (K, W, 2) and (W, 2)")
    return np.asarray(np.hypot(*np.moveaxis(proposed - driven, -1, 0)))


def ade(candidates: Any, truth: Any) -> Floats:
    """Average displacement error (K,) in metres of each candidate."""
    return np.asarray(displacements(candidates, truth).mean(1))


def fde(candidates: Any, truth: Any) -> Floats:
    """Final displacement error (K,) in metres of each candidate."""
    return displacements(candidates, truth)[:, -1]


def min_ade(candidates: Any, truth: Any, first: int | None = None) -> float:
    """The smallest average displacement error in metres among the `first` candidates, or all."""
    return float(ade(candidates, truth)[:first].min())


def min_fde(candidates: Any, truth: Any, first: int | None = None) -> float:
    """The smallest final displacement error in metres among the `first` candidates, or all."""
    return float(fde(candidates, truth)[:first].min())

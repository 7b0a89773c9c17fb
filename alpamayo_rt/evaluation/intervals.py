# SPDX-License-Identifier: Apache-2.0
"""Bootstrap confidence intervals over clips (Efron & Tibshirani 1993, percentile method).

A seeded generator draws the clips, so the same records give the same interval on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alpamayo_rt.evaluation.metrics import Floats

RESAMPLES = 4000
_BATCH = 2_000_000  # counts drawn at once


def resampled_counts(clips: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each clip is drawn, (some, clips) at a time, `resamples` in all."""
    rng = np.random.default_rng(seed)
    rows = max(1, min(resamples, _BATCH // max(clips, 1)))
    for start in range(0, resamples, rows):
        drawn = rng.integers(clips, size=(min(rows, resamples - start), clips))
        offset = drawn + clips * np.arange(len(drawn))[:, None]
        yield np.bincount(offset.ravel(), minlength=clips * len(drawn)).reshape(len(drawn), clips)


def mean_intervals(values: Floats, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Intervals (m, 2) of the means of columns.

    Args:
        values: (clips, m); NaN where a clip has no such value.
        level: of confidence.
        resamples: bootstrap samples.
        seed: of the drawing.
    """
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    means = []
    for counts in resampled_counts(len(values), resamples, seed):
        with np.errstate(invalid="ignore"):
            means.append((counts @ filled) / (counts @ there))
    tail = (1 - level) / 2
    out = np.full((values.shape[1], 2), np.nan)
    some = there.any(0)
    if not some.any():
        return out
    out[some] = np.nanquantile(np.concatenate(means)[:, some], (tail, 1 - tail), axis=0).T
    return out


def ratio_interval(
    before: Floats, after: Floats, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of mean(after) / mean(before) − 1, the clips of both drawn together.

    The wider of the bootstrap's and the normal one of the linearized ratio: with few clips or heavy tails the
    bootstrap alone is too narrow.
    """
    ratios = []
    for counts in resampled_counts(len(before), resamples, seed):
        ratios.append((counts @ after) / (counts @ before) - 1)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(ratios), (tail, 1 - tail))
    ratio = after.mean() / before.mean()
    half = student(len(before) - 1, level) * standard_error(after - ratio * before) / before.mean()
    return float(min(low, ratio - 1 - half)), float(max(high, ratio - 1 + half))


def difference_interval(
    before: Floats, after: Floats, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of mean(after − before), the wider of the bootstrap's and the normal one."""
    change = after - before
    low, high = mean_intervals(change[:, None], level, resamples, seed)[0]
    half = student(len(change) - 1, level) * standard_error(change)
    return float(min(low, change.mean() - half)), float(max(high, change.mean() + half))


def standard_error(values: Floats) -> float:
    """Of the mean; infinite for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("inf")


def student(freedom: int, level: float) -> float:
    """Two-sided quantile of Student's t: Cornish-Fisher expansion around the normal (Abramowitz & Stegun
    26.7.5).
    """
    z = {0.9: 1.6448536269514722, 0.95: 1.959963984540054, 0.99: 2.5758293035489004}[level]
    if freedom < 1:
        return float("inf")
    if freedom < 3:  # the expansion needs a few; these two are exact
        p = 1 - (1 - level) / 2
        return (
            float(np.tan(np.pi * (p - 0.5)))
            if freedom == 1
            else float((2 * p - 1) * np.sqrt(2 / (4 * p * (1 - p))))
        )
    n = float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / n ** (i + 1) for i, term in enumerate(terms)))

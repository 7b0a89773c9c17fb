# SPDX-License-Identifier: Apache-2.0
"""Is B as good as A? Paired over clips: an interval of the change, and one of three verdicts.

Equivalence is shown, not assumed: the whole interval has to lie within the margin (two one-sided tests,
Schuirmann 1987, here with the two-sided interval and so a little stricter). Worse or better is what keeps
clear of zero and is not equivalent. All else is undecided, and then the number of clips that would decide is
told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alpamayo_rt.evaluation.clip_metrics import HIGHER, NEITHER, better, is_share
from alpamayo_rt.evaluation.intervals import difference_interval, ratio_interval
from alpamayo_rt.evaluation.metrics import Floats

MARGIN = 0.02
EQUIVALENT, WORSE, BETTER, DIFFERENT, UNDECIDED = "equivalent", "worse", "better", "different", "undecided"


@dataclass(frozen=True)
class Change:
    """How one metric changes from A to B over the clips that both have.

    `relative`: change and interval are fractions of A's mean; else they are differences (of shares, or of a
    metric whose mean in A is zero). `clips_to_decide` is an estimate, None where the verdict is there.
    """

    name: str
    clips: int
    mean_a: float
    mean_b: float
    change: float
    low: float
    high: float
    relative: bool
    margin: float
    verdict: str
    clips_to_decide: int | None

    @property
    def regression(self) -> float:
        """How much worse B is; negative where it is better, zero where neither way is."""
        sign = better(self.name)
        return 0.0 if sign == NEITHER else -self.change if sign == HIGHER else self.change


def compare_metric(name: str, before: Floats, after: Floats, margin: float = MARGIN) -> Change:
    """Compare one metric over paired clips.

    Args:
        name: says which way is better, and whether the metric is a share.
        before: (clips,) in A.
        after: (clips,) in B, same order.
        margin: what counts as equivalent: a fraction of A's mean, or a difference of shares.
    """
    mean_a, mean_b = float(before.mean()), float(after.mean())
    relative = not is_share(name) and mean_a > 0
    if np.array_equal(before, after):
        change = low = high = 0.0
    elif relative:
        change = mean_b / mean_a - 1
        low, high = ratio_interval(before, after)
    else:
        change = mean_b - mean_a
        low, high = difference_interval(before, after)
    verdict = judge(low, high, margin, better(name))
    needed = clips_to_decide(change, low, high, margin, len(before)) if verdict == UNDECIDED else None
    return Change(name, len(before), mean_a, mean_b, change, low, high, relative, margin, verdict, needed)


def judge(low: float, high: float, margin: float, sign: int) -> str:
    """The verdict on an interval of the change."""
    if -margin <= low and high <= margin:
        return EQUIVALENT
    if low <= 0 <= high:
        return UNDECIDED
    if sign == NEITHER:
        return DIFFERENT
    return BETTER if (low > 0) == (sign == HIGHER) else WORSE


def clips_to_decide(change: float, low: float, high: float, margin: float, clips: int) -> int | None:
    """How many clips would make the interval narrow enough, were the change to stay what it is.

    Its width falls with the square root of the number of clips. It decides when it fits into the margin
    around the change or keeps clear of zero, whichever comes first.
    """
    half = max(change - low, high - change)
    if not math.isfinite(half) or half <= 0:
        return None
    allowed = max(margin - abs(change), abs(change))
    return max(clips + 1, math.ceil(clips * (half / allowed) ** 2))

# SPDX-License-Identifier: Apache-2.0
"""Is a record slower than an earlier one, and where?"""

from __future__ import annotations

import re
from dataclasses import dataclass

from alpamayo_rt.bench.record import KEY, Record, pause_of, times_of
from alpamayo_rt.errors import InputError


@dataclass(frozen=True)
class Change:
    """One median of two records; `share` is the growth, 0.03 for 3 % more."""

    result: str
    stage: str
    before: float
    after: float
    allowed: float

    @property
    def share(self) -> float:
        """Growth over the earlier record."""
        return self.after / self.before - 1

    @property
    def slower(self) -> bool:
        """Whether it grew more than is allowed."""
        return self.share > self.allowed

    def __str__(self) -> str:
        return f"{self.result} {self.stage}: {self.before:.3f} → {self.after:.3f} ms ({self.share:+.1%})"


def parse_share(text: str) -> float:
    """`3%` → 0.03.

    Raises:
        InputError: it is no percentage.
    """
    match = re.fullmatch(r"(\d{1,4}(?:\.\d{1,6})?)\s*%", text.strip())
    if match is None:
        raise InputError(f"--max-regression: {text!r}, expected a percentage such as 3%")
    return float(match[1]) / 100


def same_device(earlier: Record, device: str, name: str) -> None:
    """Refuse to compare times of two devices.

    Raises:
        InputError: they differ; names both.
    """
    if earlier["device"] != device:
        raise InputError(f"--against {name}: was measured on {earlier['device']}, this is {device}")


def same_pause(earlier: Record, pause_s: float, name: str) -> None:
    """Refuse to compare times of a device that rests with those of one that does not.

    Raises:
        InputError: they differ; names both.
    """
    if pause_of(earlier) != pause_s:
        raise InputError(
            f"--against {name}: rested {pause_of(earlier):g} s before each run, this one rests {pause_s:g}"
        )


def compare(earlier: Record, record: Record, allowed: float) -> list[Change]:
    """Every median that both records have.

    Raises:
        InputError: they have none in common.
    """
    before = {tuple(result[field] for field in KEY): result for result in earlier["results"]}
    changes = []
    for result in record["results"]:
        key = tuple(result[field] for field in KEY)
        if key not in before:
            continue
        old, new = times_of(before[key]), times_of(result)
        name = " ".join(key)
        changes += [Change(name, s, old[s], new[s], allowed) for s in new if s in old]
    if not changes:
        had = ", ".join(sorted({" ".join(key) for key in before}))
        raise InputError(f"--against: nothing in common with this run, the record has {had}")
    return changes

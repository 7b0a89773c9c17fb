# SPDX-License-Identifier: Apache-2.0
"""The sizes that an engine accepts: a range for every named dimension of a part's inputs.

The names are those of `engine/bindings.py`. A profile is fastest at its middle value, so the language model has
two: one for reading a prompt, one for a token a step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from alpamayo_rt.errors import InputError


class Range(NamedTuple):
    """Smallest, usual and largest size of a dimension."""

    low: int
    usual: int
    high: int

    def __str__(self) -> str:
        return f"{self.low}:{self.usual}:{self.high}"


Profile = Mapping[str, Range]

_CANDIDATES = Range(1, 6, 16)
# A cache has room for every sequence's tokens and the expert's own behind the prompt.
_CACHE = Range(1, 3136, 8448)
DEFAULTS: Mapping[str, tuple[Profile, ...]] = {
    # I images of n patches each; 16 images of 320 × 576 are the usual input, seven cameras the largest.
    "vision": ({"I": Range(1, 16, 28), "n": Range(4, 720, 768)},),
    # N new tokens behind S cached ones, logits of R of them: the prompt (behind one cached place that is
    # hidden, see `engine/session_stages.py`), then tokens behind it.
    "language": (
        {"N": Range(1, 3136, 4096), "S": Range(1, 1, 1), "R": Range(1, 1, 1)},
        {"N": Range(1, 1, 256), "S": _CACHE, "R": Range(1, 1, 16)},
    ),
    # B candidates over S cached tokens, or over P shared and T own ones.
    "expert": ({"B": _CANDIDATES, "S": Range(1, 3136, 4352), "P": _CACHE, "T": Range(1, 32, 256)},),
}


def parse_ranges(texts: Sequence[str]) -> dict[str, Range]:
    """`NAME=MIN:OPT:MAX` → ranges that replace those of every profile.

    Raises:
        InputError: the text is something else, or the numbers do not rise.
    """
    ranges = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)=(\d+):(\d+):(\d+)", text)
        if match is None:
            raise InputError(f"--profile: {text!r}, expected NAME=MIN:OPT:MAX, such as B=1:6:16")
        found = Range(*(int(n) for n in match.groups()[1:]))
        if not found.low <= found.usual <= found.high or found.high == 0:
            raise InputError(f"--profile: {text!r}, expected MIN ≤ OPT ≤ MAX")
        ranges[match[1]] = found
    return ranges


def profiles_for(part: str, overrides: Mapping[str, Range]) -> tuple[Profile, ...]:
    """The profiles of a part with the ranges that were asked for."""
    return tuple({name: overrides.get(name, r) for name, r in p.items()} for p in DEFAULTS[part])


def shape_range(shape: Sequence[int | str], profile: Profile) -> tuple[tuple[int, ...], ...]:
    """Smallest, usual and largest shape of an input.

    Args:
        shape: numbers, names, and sums of them such as "S + 64".
        profile: ranges of the names.

    Raises:
        InputError: a name has no range.
    """
    return tuple(tuple(_size(d, profile, i) for d in shape) for i in range(3))


def _size(dimension: int | str, profile: Profile, which: int) -> int:
    if isinstance(dimension, int):
        return dimension
    total = 0
    for term in dimension.split("+"):
        name = term.strip()
        if name.isdecimal():
            total += int(name)
        elif name in profile:
            total += profile[name][which]
        else:
            raise InputError(f"--profile: no range for {name}, expected {name}=MIN:OPT:MAX")
    return total

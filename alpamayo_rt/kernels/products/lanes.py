# SPDX-License-Identifier: Apache-2.0
"""Products that run at the same time: those of each lane have a workspace of the library's to themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LANE: ContextVar[int] = ContextVar("lane", default=0)


@contextmanager
def lane(number: int) -> Iterator[None]:
    """Products launched inside may run beside those of other lanes; 0 is where all others are."""
    token = _LANE.set(number)
    try:
        yield
    finally:
        _LANE.reset(token)


def current_lane() -> int:
    """The lane of what is launched now."""
    return _LANE.get()

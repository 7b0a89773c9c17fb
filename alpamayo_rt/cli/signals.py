# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command, as exceptions, so that files being written are removed on the way out.

Python throws away an exception that a signal handler raises inside a destructor, a weak reference callback or
the like, prints it as "ignored", and goes on. Such a moment passes in microseconds, so the exception is raised
once more a little later.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

_AGAIN_AFTER = 0.02  # seconds


def install() -> None:
    """Let SIGTERM raise `SystemExit`, and neither it nor Ctrl-C be lost; only in a process of our own."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _unraisable


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    ending = lost.exc_value
    if not isinstance(ending, SystemExit | KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    status = ending.code if isinstance(ending, SystemExit) else None

    def again(number: int, frame: FrameType | None) -> NoReturn:
        # A new one: the old one holds the frames that it came through.
        raise KeyboardInterrupt if status is None else SystemExit(status)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER)

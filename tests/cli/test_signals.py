# SPDX-License-Identifier: Apache-2.0
"""A signal that arrives where Python ignores exceptions still ends the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_runs import environment

PROGRAM = """
import os, signal, sys, time, weakref
from alpamayo_rt.cli import signals

signals.install()
signal.signal(signal.SIGINT, signal.default_int_handler)

class Thing:
    pass

def callback(_):
    os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    for _ in range(1000):  # the handler runs in here, where what it raises is thrown away
        pass
    print("not reached", flush=True)

thing = Thing()
reference = weakref.ref(thing, callback)
try:
    del thing
    print("went on", flush=True)
    time.sleep(20)
finally:
    print("cleared up", flush=True)
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", -2)])
def test_an_ending_is_not_lost_in_a_callback(name: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, env=environment(), timeout=15
    )
    assert done.returncode == status
    assert done.stdout.split("\n") == ["went on", "cleared up", ""]
    assert "gnored" not in done.stderr


def test_other_lost_exceptions_are_still_printed() -> None:
    program = PROGRAM.replace("os.kill(os.getpid(), signal.Signals[sys.argv[1]])", "raise ValueError(7)")
    program = program.replace("time.sleep(20)", "pass")
    done = subprocess.run(
        [sys.executable, "-c", program, ""], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0
    assert "ValueError: 7" in done.stderr

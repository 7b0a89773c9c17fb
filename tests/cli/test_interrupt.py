# SPDX-License-Identifier: Apache-2.0
"""Whenever `infer` is interrupted or killed, its files are the old ones or the whole new ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_runs import CHECKPOINT, environment, pictures, request, write_requests

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

MOMENTS = [
    f"{what} {when}"
    for what in ("dump", "output")
    for when in ("half written", "before its rename", "after its rename")
]
DELAYS = 6
STATUS = {"SIGINT": 130, "SIGTERM": 128 + signal.SIGTERM, "SIGKILL": -signal.SIGKILL}


def arguments(folder: Path, ids: Sequence[str] = "ab") -> list[str]:
    entry = request(pictures(folder, 1), camera_indices=[1])
    source = write_requests(folder / "in.json", *(entry | {"id": name} for name in ids))
    words = ["infer", "--model", CHECKPOINT, "--input-file", source, "--output-file", folder / "out.json"]
    return [str(word) for word in (*words, "--dump-kv-cache", folder / "kv")]


def interrupted(folder: Path, name: str, delays: int) -> list[dict[str, Any]]:
    asked = {
        "argv": arguments(folder), "folder": str(folder), "signal": name, "moments": MOMENTS, "delays": delays
    }  # fmt: skip
    words = [sys.executable, str(Path(__file__).with_name("interrupted_runs.py")), json.dumps(asked)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", list(STATUS))
def test_files_are_old_or_whole_at_every_moment(tmp_path: Path, name: str) -> None:
    whole, *runs, after = interrupted(tmp_path, name, delays=DELAYS)
    for run in (whole, after):
        assert (run["status"], run["output"], run["dumps"]) == (0, "complete", ["complete"] * 2)
        # The complete run at the end also clears up what the killed ones left.
        assert run["temporary"] == []
    assert len(runs) == len(MOMENTS) + DELAYS
    for run in runs:
        before = "old" if run["old"] else "absent"
        assert run["reached"]
        assert "Traceback" not in run["stderr"]
        for state in (run["output"], *run["dumps"]):
            assert state in (before, "complete"), run
        # The output is written last: where it is, the dumps are.
        if run["output"] == "complete":
            assert run["dumps"] == ["complete"] * 2
        if name != "SIGKILL":
            assert run["temporary"] == [], run
        if run["moment"] not in MOMENTS:
            continue
        assert run["status"] == STATUS[name], run
        what, when = run["moment"].split(" ", 1)
        changed = "complete" if when == "after its rename" else before
        if what == "dump":
            assert (run["output"], run["dumps"]) == (before, [changed, before])
        else:
            assert (run["output"], run["dumps"]) == (changed, ["complete"] * 2)
        if name == "SIGKILL" and when != "after its rename":
            # What makes the check of the clearing-up above mean something.
            assert run["temporary"], run
        if name == "SIGINT":
            assert run["stderr"].splitlines()[-1] == "alpamayo-rt: interrupted, nothing half-written is left"


@pytest.mark.parametrize("name", list(STATUS))
def test_process(tmp_path: Path, name: str) -> None:
    """The same without any preparation: a process, and the signal once it has answered its first request."""
    (tmp_path / "out.json").write_text("old")
    ids = [str(number) for number in range(200)]
    child = subprocess.Popen(
        [sys.executable, "-m", "alpamayo_rt", *arguments(tmp_path, ids)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # A shell's background jobs ignore it, and their children would.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stderr is not None
    with child.stderr:
        for line in child.stderr:
            if line.startswith("[1/200]"):
                child.send_signal(signal.Signals[name])
                break
        rest = child.stderr.read()
    assert child.wait(timeout=30) == STATUS[name]
    assert "Traceback" not in rest
    assert "[200/200]" not in rest
    assert (tmp_path / "out.json").read_text() == "old"
    dumps = {path.name for path in (tmp_path / "kv").iterdir()}
    assert "0.safetensors" in dumps
    if name != "SIGKILL":
        assert dumps <= {f"{number}.safetensors" for number in ids}

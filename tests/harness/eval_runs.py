# SPDX-License-Identifier: Apache-2.0
"""How the tests evaluate: in this process, or in one of its own that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpamayo_rt.cli.main import main

ROOT = Path(__file__).parents[2]
QUICK = ("--num-candidates", 1, "--num-diffusion-steps", 1, "--max-generate-length", 2, "--no-pictures")


def arguments(out: Path, *more: object, model: str = "nano", clips: str = "world-live:0:6") -> list[str]:
    """Of a call of `eval` on the CPU."""
    words = ["eval", "--model", model, "--device", "cpu", "--threads", 1, "--clips", clips, "--out", out, *more]
    return [str(word) for word in words]


def evaluate(out: Path, *more: object, model: str = "nano", clips: str = "world-live:0:6") -> int:
    """Evaluate in this process; the exit status."""
    return main(arguments(out, *more, model=model, clips=clips))


def environment(**more: str) -> dict[str, str]:
    """Of a process of its own."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def process(argv: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    words = [sys.executable, "-m", "alpamayo_rt", *argv]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(**more), timeout=300)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def start(argv: list[str], errors: Path) -> subprocess.Popen[str]:
    """Start the command; its stderr goes into a file that can be read while it runs."""
    with errors.open("w") as file:
        words = [sys.executable, "-m", "alpamayo_rt", *argv]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file, text=True, env=environment())


def wait_for(
    what: Callable[[], Any], running: subprocess.Popen[str] | None = None, seconds: float = 120
) -> Any:
    """Wait until something is there, or fail."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        assert running is None or running.poll() is None, "the process came to its end too early"
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def lines(run: Path) -> list[str]:
    """The whole lines of results.jsonl."""
    path = run / "results.jsonl"
    return path.read_text().splitlines(keepends=True) if path.is_file() else []


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(run)]


def answers(run: Path) -> dict[str, Any]:
    """What must not depend on when and by whom a clip is evaluated."""
    timing = {"milliseconds", "wait_ms", "data_ms", "warm_up", "memory_gib", "worker"}
    return {
        r["clip_id"]: {name: value for name, value in r.items() if name not in timing} for r in records(run)
    }


def only_once(run: Path, clips: int) -> None:
    """Every clip has exactly one record."""
    names = [record["clip_id"] for record in records(run)]
    assert sorted(names) == sorted(set(names))
    assert len(names) == clips

# SPDX-License-Identifier: Apache-2.0
"""A process that runs one command after the other: the hub library reads its address when it is imported."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from eval_runs import environment


@dataclass(frozen=True)
class Run:
    """What one command gave."""

    returncode: int
    stdout: str
    stderr: str


class CommandProcess:
    """Runs commands in a process of its own that has some environment."""

    def __init__(self, **variables: str):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment(**variables),
        )  # fmt: skip

    def __call__(self, *argv: object) -> Run:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(word) for word in argv]), file=self._process.stdin, flush=True)
        run = Run(**json.loads(self._process.stdout.readline()))
        assert "Traceback" not in run.stdout + run.stderr
        return run

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def serve() -> None:
    """The other side."""
    from alpamayo_rt.cli.main import main

    answers = sys.stdout
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(json.loads(line))
            except SystemExit as end:
                status = int(end.code or 0)
        print(
            json.dumps({"returncode": status, "stdout": out.getvalue(), "stderr": err.getvalue()}),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve()

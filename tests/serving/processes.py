# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt serve` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from alpamayo_rt.serving.client import Client

CHECKPOINT = Path(__file__).parent.parent / "data" / "alpamayo1_5" / "model" / "checkpoint"


class Process:
    """A server, its address and what it has said on stderr."""

    def __init__(self, *options: str, model: str = str(CHECKPOINT), cwd: Path | None = None):
        command = [sys.executable, "-m", "alpamayo_rt", "serve", "--model", model, "--threads", "1", *options]
        source = str(Path(__file__).parent.parent.parent)
        environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd)
        self.said: list[str] = []
        self._address = threading.Event()
        self.url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._address.wait(120)
        assert self.url, self.said

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            found = re.search(r"listening on (http://\S+?),", line)
            if found:
                self.url = found[1]
                self._address.set()
        self._address.set()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def client(self) -> Client:
        return Client(self.url, timeout=120)

    def ready(self) -> Process:
        """Wait until it takes requests."""
        self.client.wait_ready(180)
        return self

    def end(self, number: int, seconds: float = 60.0) -> int:
        """Send a signal; gives the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

# SPDX-License-Identifier: Apache-2.0
"""A server on loopback, in this process, on the tiny model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from alpamayo_rt import Model
from alpamayo_rt.serving.client import Client
from alpamayo_rt.serving.clips import ClipShelf
from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.server import Server, bind

QUICK = Limits(
    body_bytes=2 << 20, all_bodies_bytes=3 << 20, body_seconds=1.5, header_seconds=1.0, images=16,
    image_pixels=300_000, all_pixels=1_000_000, waiting=3, deadline_seconds=20.0,
    candidates=8, tokens=64, steps=20,
)  # fmt: skip


@dataclass
class Running:
    """A server that runs in a thread."""

    server: Server
    port: int
    said: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Client:
        return Client(self.url, timeout=30)

    @property
    def taken(self) -> int:
        return self.server.worker.taken


def start(model: Model, limits: Limits = QUICK, token: str | None = None) -> tuple[Running, threading.Thread]:
    said: list[str] = []
    errors: list[Exception] = []
    shelf = ClipShelf(0, 2)
    server = Server(lambda: model, limits, shelf, token, None, None, said.append, errors.append)
    bound = bind("127.0.0.1", 0)
    running = Running(server, bound.getsockname()[1], said, errors)
    thread = threading.Thread(target=server.run, args=(bound,), daemon=True)
    thread.start()
    Client(running.url, token).wait_ready(20)
    return running, thread


@pytest.fixture(scope="session")
def running(model_1_5: Model) -> Iterator[Running]:
    """One server for all tests that leave it as it was."""
    found, thread = start(model_1_5)
    yield found
    found.server.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert found.taken == 0

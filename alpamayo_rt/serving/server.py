# SPDX-License-Identifier: Apache-2.0
"""The process: a socket, a worker, uvicorn; loading while it already answers, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import torch
import uvicorn
from starlette.types import ASGIApp

from alpamayo_rt.errors import InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.serving.app import build
from alpamayo_rt.serving.clips import ClipShelf
from alpamayo_rt.serving.connection import impatient
from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.service import Service
from alpamayo_rt.serving.worker import State, Work, Worker


def bind(host: str, port: int) -> socket.socket:
    """A listening address, taken before anything is loaded; port 0 takes any.

    Raises:
        InputError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # connections inherit it
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host, --port: {host}:{port} cannot be listened on ({reason})") from None
    return bound


def warm_up(model: Model, check: Callable[[int, int], None]) -> None:
    """One short drive with black images of the usual size, so that the first request finds everything there."""
    frames = torch.zeros(4, 4, 3, 1080, 1920, dtype=torch.uint8)
    history = torch.zeros(16, 3)
    history[:, 0] = 0.5 * torch.arange(-15, 1)
    sample = Sample(frames, (0, 1, 2, 6), history, torch.eye(3).expand(16, 3, 3))
    model.infer(sample, num_candidates=1, num_diffusion_steps=2, max_generate_length=4, on_token=check)


class Server:
    """One server.

    Args:
        load: makes the model, in the worker's thread.
        limits: of requests.
        shelf: clips for the page.
        token: that requests have to bear, or None.
        served_name: what the model is called, or None.
        warm: runs once before the first request, or None.
        say: is told one line of progress.
        report: is told of errors that nobody foresaw.
        log_requests: one line on stderr for each.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        limits: Limits,
        shelf: ClipShelf,
        token: str | None = None,
        served_name: str | None = None,
        warm: Work | None = warm_up,
        say: Callable[[str], None] = print,
        report: Callable[[Exception], None] = print,
        log_requests: bool = False,
    ):
        self.worker = Worker(limits.waiting, report)
        self.service = Service(self.worker, limits, shelf, served_name)
        self.app: ASGIApp = build(self.service, token, report)
        self._load, self._warm, self._say, self._limits = load, warm, say, limits
        self._log_requests = log_requests
        self._uvicorn: _Uvicorn | None = None

    def stop(self) -> None:
        """End `run` as SIGTERM does; may be called from any thread."""
        self.worker.stop()
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    def run(self, bound: socket.socket) -> bool:
        """Serve until SIGTERM or Ctrl-C; then finish what was taken.

        Returns:
            Whether all is at rest. If not, a thread still loads, or was left with work by a second signal;
            Python cannot end a thread, so the process has to end without clearing up.

        Raises:
            Exception: what loading raised, or what the engine failed with.
        """
        limits = self._limits
        config = uvicorn.Config(
            self.app,
            http=impatient(limits.header_seconds),
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_level="info" if self._log_requests else "warning",
            access_log=self._log_requests,
            limit_concurrency=limits.connections,
            timeout_keep_alive=int(limits.header_seconds) or 1,
            timeout_graceful_shutdown=int(limits.deadline_seconds) + 5,
            server_header=False,
        )
        server = self._uvicorn = _Uvicorn(config, self.worker, self._say)
        address = _address(bound)

        def on_change() -> None:
            if self.worker.state is State.READY:
                self._say(f"serve: ready on {address}")
            elif self.worker.state is State.FAILED:
                server.should_exit = True

        with server.catching_signals():
            bound.listen(limits.connections)
            self._say(f"serve: listening on {address}, loading the model")
            self.worker.start(self._load, self._warm, on_change)
            asyncio.run(server.serve(sockets=[bound]))
            rests = self.worker.join(lambda: server.force_exit)
        self.service.close()
        if self.worker.failure is not None:
            raise self.worker.failure
        return rests


def _address(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Uvicorn(uvicorn.Server):
    """uvicorn, which tells the worker at once when it is to stop, and does not raise the signal again."""

    def __init__(self, config: uvicorn.Config, worker: Worker, say: Callable[[str], None]):
        super().__init__(config)
        self._worker, self._say = worker, say

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Nothing: they are caught before uvicorn starts, and until the worker has ended."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Handle signals; a thread other than the first one gets none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        again = self.should_exit
        self._worker.stop()
        self.handle_exit(number, None)
        self.force_exit = again

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was taken."""
        self._say("serve: finishing what was taken (once more to stop at once)")
        await super().shutdown(sockets)

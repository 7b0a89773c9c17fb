# SPDX-License-Identifier: Apache-2.0
"""A connection that waits for a request's headers, but not for ever."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_READ_BYTES = 1 << 20  # at once; a request with images has megabytes


def impatient(seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which closes connections that have no request in progress for `seconds`.

    The time starts with the connection and with the end of each answer. Bytes do not extend it: a sender that
    trickles headers, or goes on sending what was refused, is cut off as well.
    """

    class Impatient(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(seconds, self._close_if_idle)

        def _close_if_idle(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Impatient

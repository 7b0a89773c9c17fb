# SPDX-License-Identifier: Apache-2.0
"""What stands before every route: the token, headers that browsers need, errors as one sentence, counting."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alpamayo_rt.serving.metrics import Metrics
from alpamayo_rt.serving.refusal import Refusal

_OPEN = ("/v1/health/live", "/v1/health/ready", "/")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    ),
]
_ROUTES = ("/v1/infer", "/v1/chat/completions", "/v1/vqa", "/page/run")


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        token: that requests have to bear; None for none.
        metrics: counts.
        report: is told of errors that nobody foresaw.
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics, report: Callable[[Exception], None]):
        self._app, self._metrics, self._report = app, metrics, report
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            pass
        except Refusal as refusal:
            if refusal.status != 499:
                await _refuse(refusal, sending)
        except Exception as error:
            self._report(error)
            if status == 499:
                await _refuse(Refusal(500, "(server): internal error; its log says more"), sending)
        finally:
            path = scope["path"] if scope["path"] in _ROUTES else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        if self._token is None or scope["path"] in _OPEN or _is_asset(scope["path"]):
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise Refusal(401, "authorization: expected “Bearer” and this server's token")


def _is_asset(path: str) -> bool:
    return path.startswith("/page/") and path.endswith((".js", ".css", ".svg"))


async def _refuse(refusal: Refusal, send: Callable[[Any], Any]) -> None:
    body = refusal.json()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

# SPDX-License-Identifier: Apache-2.0
"""A request's body: read within limits, parsed without copying the images that are in it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request

from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.refusal import Refusal

_LONG = 4096  # bytes from which a text is cut out of the JSON before it is parsed
_SMALL = 64 * 1024  # bodies up to this size are parsed as they are
_MOST_STRINGS = 20_000  # a body with more texts than that is parsed as it is


class BodyBudget:
    """Bytes of all bodies that are held at the moment."""

    def __init__(self, limit: int):
        self._limit, self.held = limit, 0

    @contextmanager
    def share(self) -> Iterator[BodyShare]:
        """A share that starts empty and is given back at the end."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            share.give_back()

    def take(self, count: int) -> None:
        """Hold `count` bytes more.

        Raises:
            Refusal: together they are too many.
        """
        if self.held + count > self._limit:
            raise Refusal(429, "(body): too many large requests are being received", retry_after=2)
        self.held += count


class BodyShare:
    """What one request holds of the budget."""

    def __init__(self, budget: BodyBudget):
        self._budget, self._count = budget, 0

    def take(self, count: int) -> None:
        """Hold more."""
        self._budget.take(count)
        self._count += count

    def give_back(self) -> None:
        """Hold nothing."""
        self._budget.held -= self._count
        self._count = 0


def check_headers(request: Request, limits: Limits) -> None:
    """Refuse by its headers what need not be read.

    Raises:
        Refusal: another type than JSON, or too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"content-type: {kind[:80]!r}, expected application/json")
    if "content-encoding" in request.headers:
        raise Refusal(415, "content-encoding: not supported, expected a plain body")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limits.body_bytes:
        raise _too_long(limits)


async def read_body(request: Request, limits: Limits, share: BodyShare) -> bytearray:
    """The whole body.

    Raises:
        Refusal: too long, too slow, or together with others too much.
        ClientDisconnect: the client went away.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limits.body_bytes:
                    raise _too_long(limits)
                share.take(len(chunk))
                body += chunk
    except TimeoutError:
        raise Refusal(408, f"(body): not complete after {limits.body_seconds:g} s") from None
    return body


def _too_long(limits: Limits) -> Refusal:
    return Refusal(413, f"(body): longer than {limits.body_bytes} bytes, expected fewer or smaller images")


class LongTexts:
    """Texts that were cut out of a JSON body; each left a placeholder that no client can guess."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(16)
        self._texts: list[memoryview] = []

    def put(self, text: memoryview) -> bytes:
        """Keep a text; gives its placeholder."""
        self._texts.append(text)
        return f"{self._prefix}{len(self._texts) - 1}".encode()

    def get(self, value: str) -> memoryview | None:
        """The text behind a placeholder, None for any other value."""
        if not value.startswith(self._prefix):
            return None
        return self._texts[int(value[len(self._prefix) :])]

    def restored(self, value: Any) -> Any:
        """A parsed value with its texts in place, but for those at `images` and `url`."""
        if isinstance(value, dict):
            return {k: v if k in _IMAGE_KEYS else self.restored(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.restored(item) for item in value]
        text = self.get(value) if isinstance(value, str) else None
        return value if text is None else _parsed(b'"' + bytes(text) + b'"')


_IMAGE_KEYS = ("images", "url")


def parse(body: bytearray) -> tuple[dict[str, Any], LongTexts]:
    """The JSON object in a body, and the long texts that were cut out of it.

    Raises:
        Refusal: not JSON, or no object.
    """
    texts = LongTexts()
    short = body if len(body) <= _SMALL else _without_long_texts(body, texts)
    value = _parsed(short)
    if not isinstance(value, dict):
        raise Refusal(422, f"(body): a JSON {_name(value)}, expected an object")
    try:
        return texts.restored(value) if short is not body else value, texts
    except RecursionError:
        raise Refusal(422, "(body): nested too deeply") from None


def _parsed(text: bytes | bytearray) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refusal(422, f"(body): not JSON ({error.msg}), expected a JSON object") from None


def _without_long_texts(body: bytearray, texts: LongTexts) -> bytes | bytearray:
    """The body with a placeholder for every long text without escapes.

    Quotes occur in JSON only around texts and, escaped, inside of them; so each is found from the one before.
    """
    view = memoryview(body)
    pieces: list[bytes | memoryview] = []
    done = at = 0
    for _ in range(_MOST_STRINGS):
        start = body.find(b'"', at)
        if start < 0:
            pieces.append(view[done:])
            return b"".join(pieces)
        end = _closing_quote(body, start + 1)
        if end < 0:
            return body  # not JSON: the parser will say so
        if end - start > _LONG and body.find(b"\\", start, end) < 0:
            pieces += [view[done : start + 1], texts.put(view[start + 1 : end])]
            done = end
        at = end + 1
    return body


def _closing_quote(body: bytearray, at: int) -> int:
    while True:
        end = body.find(b'"', at)
        slashes, before = 0, end - 1
        while before >= at and body[before] == 0x5C:
            slashes, before = slashes + 1, before - 1
        if end < 0 or slashes % 2 == 0:
            return end
        at = end + 1


def _name(value: object) -> str:
    names = {list: "list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "number")


__all__ = ["BodyBudget", "BodyShare", "ClientDisconnect", "LongTexts", "check_headers", "parse", "read_body"]

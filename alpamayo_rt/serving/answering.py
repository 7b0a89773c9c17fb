# SPDX-License-Identifier: Apache-2.0
"""How every request for an inference is answered: read, get a place, run, reply at once or in events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from alpamayo_rt.inference import Model
from alpamayo_rt.serving.body import LongTexts, check_headers, parse, read_body
from alpamayo_rt.serving.order import Order, Outcome
from alpamayo_rt.serving.reply import Watch, dumps
from alpamayo_rt.serving.service import Prepare, Service, unless_gone
from alpamayo_rt.serving.streaming import Event, Feed, events_of

Reply = Callable[[Order, Outcome, str, Watch], dict[str, Any]]
Stream = Callable[[AsyncIterator[Event | None], str], AsyncIterator[bytes]]
Reading = Callable[[dict[str, Any], LongTexts, Model], tuple[Prepare, bool]]
"""(body, its long texts, model) → (what makes the order, whether its answer is streamed)"""

_SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def answered(
    service: Service, request: Request, reading: Reading, reply: Reply, stream: Stream
) -> Response:
    """Read, take a place, run, reply.

    Raises:
        Refusal: of whatever kind.
    """
    watch, stack = Watch(), AsyncExitStack()
    async with stack:
        check_headers(request, service.limits)
        service.worker.check_ready()
        share = stack.enter_context(service.bodies.share())
        raw = await read_body(request, service.limits, share)
        watch.lap("read")
        model = service.worker.check_ready()
        slot = await stack.enter_async_context(service.place(request))
        body, texts = parse(raw)
        prepare, streams = reading(body, texts, model)
        del raw, body, texts
        watch.lap("parse")
        name = service.dialect(model).names[0]
        made: list[Order] = []

        def on_order(order: Order) -> None:
            made.append(order)
            share.give_back()

        def finished(outcome: Outcome) -> dict[str, Any]:
            service.metrics.note(outcome, watch)
            return reply(made[0], outcome, name, watch)

        if streams:
            feed = Feed(model)

            async def run() -> Outcome:
                ran = await service.run(slot, prepare, watch, listening, feed.on_part, feed.on_driven)
                return ran[1]

            def listening(order: Order) -> None:
                on_order(order)
                feed.on_order(order)

            chunks = stream(events_of(feed, run(), finished), name)
            return _Streamed(chunks, stack.pop_all())
        found: list[Outcome] = []

        async def work() -> None:
            found.append((await service.run(slot, prepare, watch, on_order))[1])

        await unless_gone(request, work())
        began = time.perf_counter()
        content = dumps(finished(found[0]))
        watch.milliseconds["serialize"] = (time.perf_counter() - began) * 1e3
        headers = {"Server-Timing": watch.header()}
        return Response(content, media_type="application/json", headers=headers)


class _Streamed(StreamingResponse):
    """Events; the place in the queue is given back when they end, however they do."""

    def __init__(self, chunks: AsyncIterator[bytes], held: AsyncExitStack):
        super().__init__(chunks, media_type="text/event-stream", headers=_SSE_HEADERS)
        self._held = held

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)

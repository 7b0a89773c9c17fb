# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: reasoning while it is written, trajectories when they come, the whole at the end."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from alpamayo_rt.inference import Model
from alpamayo_rt.prompt.prompt import task_of
from alpamayo_rt.result import Result
from alpamayo_rt.serving.order import Order, Outcome
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.reply import dumps, trajectories
from alpamayo_rt.serving.text_stream import TextStream
from alpamayo_rt.tasks import Task

_HEARTBEAT = 10.0  # seconds of silence after which a comment is sent, so that nobody hangs up
_END = object()

Event = tuple[str, Any]
"""(name, JSON value)"""


class Feed:
    """Takes what the worker's thread reports and gives events to the loop's side."""

    def __init__(self, model: Model):
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._model = model
        self._tasks: dict[str, Task] = {}
        self._texts: dict[tuple[str, int], TextStream] = {}

    def on_order(self, order: Order) -> None:
        """What is going to be run; called on the loop."""
        for part, sample in (("reasoning", order.drive), ("answer", order.answer)):
            if sample is not None:
                self._tasks[part] = task_of(sample, self._model.config.family)

    def on_part(self, part: str, sequence: int, token: int) -> None:
        """Called in the worker's thread."""
        self._loop.call_soon_threadsafe(self._items.put_nowait, (part, sequence, token))

    def on_driven(self, result: Result) -> None:
        """Called in the worker's thread."""
        self._loop.call_soon_threadsafe(self._items.put_nowait, result)

    def end(self) -> None:
        """There is nothing more; called on the loop."""
        self._items.put_nowait(_END)

    async def events(self) -> AsyncIterator[Event | None]:
        """What happens, one event after the other; None after some seconds in which nothing does."""
        while True:
            try:
                item = await asyncio.wait_for(self._items.get(), _HEARTBEAT)
            except TimeoutError:
                yield None
                continue
            if item is _END:
                return
            if isinstance(item, Result):
                for end in self.rest(Outcome(drive=item)):
                    yield end
                yield "trajectories", trajectories(item)
                continue
            part, sequence, token = item
            event = self._event(part, sequence, *self._text(part, sequence).add([token]))
            if event is not None:
                yield event

    def rest(self, outcome: Outcome) -> list[Event]:
        """The ends of the texts, now that they are known."""
        ends: list[Event | None] = []
        if outcome.drive is not None:
            for sequence, text in enumerate(outcome.drive.reasoning):
                ends.append(self._event("reasoning", sequence, *self._text("reasoning", sequence).finish(text)))
        if outcome.answer is not None:
            ends.append(self._event("answer", 0, *self._text("answer", 0).finish(outcome.answer.answer or "")))
        return [event for event in ends if event is not None]

    def _text(self, part: str, sequence: int) -> TextStream:
        key = (part, sequence)
        if key not in self._texts:
            self._texts[key] = TextStream(partial(self._model.text_of, task=self._tasks[part]))
        return self._texts[key]

    @staticmethod
    def _event(part: str, sequence: int, piece: str, anew: bool) -> Event | None:
        if not piece and not anew:
            return None
        value: dict[str, Any] = {"sequence": sequence, "text": piece}
        return part, value | ({"replace": True} if anew else {})


async def events_of(
    feed: Feed, run: Awaitable[Outcome], reply: Callable[[Outcome], dict[str, Any]]
) -> AsyncIterator[Event | None]:
    """All events of one request, `result` or `error` the last of them."""

    async def work() -> Outcome:
        try:
            return await run
        finally:
            feed.end()

    task = asyncio.ensure_future(work())
    try:
        async for event in feed.events():
            yield event
        try:
            outcome = await task
        except Refusal as refusal:
            yield "error", refusal.body()
            return
        for event in feed.rest(outcome):
            yield event
        yield "result", reply(outcome)
    finally:
        task.cancel()


async def as_sse(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    """Named events, as `/v1/infer` and the page have them."""
    async for event in events:
        if event is None:
            yield b": still here\n\n"
        else:
            yield b"event: " + event[0].encode() + b"\ndata: " + dumps(event[1]) + b"\n\n"


async def as_chat_chunks(
    events: AsyncIterator[Event | None], model: str, content: Callable[[dict[str, Any]], str | None]
) -> AsyncIterator[bytes]:
    """OpenAI's chunks.

    Args:
        events: of the request.
        model: its name.
        content: what is still to be said when the reply is there; None if all was said on the way.
    """
    start = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + dumps(start | {"choices": [choice]} | more) + b"\n\n"

    yield chunk({"role": "assistant"})
    async for event in events:
        if event is None:
            yield b": still here\n\n"
        elif event[0] == "error":
            yield b"data: " + dumps(event[1]) + b"\n\n"
            return
        elif event[0] == "result":
            rest = content(event[1])
            if rest is not None:
                yield chunk({"content": rest})
            reply = event[1]
            yield chunk(
                {}, reply["choices"][0]["finish_reason"], usage=reply["usage"], warnings=reply["warnings"]
            )
            yield b"data: [DONE]\n\n"
        elif event[0] in ("reasoning", "answer") and event[1]["sequence"] == 0 and "replace" not in event[1]:
            key = "content" if event[0] == "answer" else "reasoning_content"
            yield chunk({key: event[1]["text"]})

# SPDX-License-Identifier: Apache-2.0
"""Reasoning on the device: the decode step with its choice and its stop test, and a host that only launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import takewhile

import torch

from alpamayo_rt.engine.base import FINISHED, LIMIT, NO_TRAJECTORY_TOKEN, OnToken, Rollout
from alpamayo_rt.engine.graphs.cache import SegmentedCache
from alpamayo_rt.engine.graphs.decode import DecodePass
from alpamayo_rt.engine.graphs.segments import Segments
from alpamayo_rt.engine.graphs.staging import Staging
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.kernels.rollout.operations import GO_ON, RolloutInput, advance
from alpamayo_rt.kernels.sampling.operations import SamplingScratch, choose_tokens, sampling_settings

_RANGES = 4
_PAUSE = 50e-6  # seconds between two looks at the flags; a decode step takes milliseconds
_PATIENCE = 60.0


class DecodeStep:
    """A pass, the choice from its logits, and the stop test: what is captured."""

    def __init__(self, decode: DecodePass):
        device, rows = decode.home.planes.device, decode.rows
        self.decode, self.state = decode, decode.state
        most = decode.tail_room - 1
        self._staging = Staging(
            device,
            forced=((rows, most), torch.int64),
            uniforms=((rows, most), torch.float64),
            rule=((3,), torch.int64),
            first_position=((), torch.int64),
            settings=((4,), torch.float64),
            masked=((_RANGES, 2), torch.int64),
        )
        there = self._staging.there
        self.given = RolloutInput(*(there[f.name] for f in fields(RolloutInput)))
        self._settings, self._masked = there["settings"], there["masked"]
        self._chosen = torch.zeros(rows, dtype=torch.int64, device=device)
        self._scratch = SamplingScratch.allocate(rows, decode.few.logits.shape[1], device)
        self._told: list[int] = []
        # Where passes run behind the host's back, the end of the last one.
        self._last = torch.cuda.Event() if self.state.flags.is_pinned() else None
        self._unfinished = False

    def __call__(self) -> None:
        """One step."""
        self.decode()
        self._take()

    def _take(self) -> None:
        choose_tokens(
            self.decode.few.logits,
            self.state.uniform,
            self._settings,
            self._masked,
            self._chosen,
            self._scratch,
        )
        advance(self._chosen, self.given, self.state, self.decode.home.tail_start, self.decode.tail_room)

    def begin(
        self,
        cache: SegmentedCache,
        logits: torch.Tensor,
        sampling: Sampling,
        rule: StopRule,
        uniforms: torch.Tensor,
        forced: torch.Tensor | None,
    ) -> None:
        """Take a request, and the first token from the prompt's logits (arguments as in `Engine.reason`).

        Nobody waits, so that the prompt may still be running.
        """
        if len(rule.masked) > _RANGES:
            raise InputError(f"masked: {len(rule.masked)} ranges of ids, expected {_RANGES} at most")
        if self._unfinished:
            # Somebody left before the end: what was launched may still write flags.
            torch.cuda.synchronize(self.state.token.device)
        state, limit, here = self.state, sampling.max_generate_length, self._staging.here()
        self._rule, self._limit, self._unfinished = rule, limit, self._last is not None
        here["settings"].copy_(sampling_settings(sampling.temperature, sampling.top_p, sampling.top_k, "cpu"))
        here["masked"].zero_()
        here["masked"][: len(rule.masked)] = torch.tensor(rule.masked, dtype=torch.int64).view(-1, 2)
        here["uniforms"][:, :limit] = uniforms[:, :limit]
        here["forced"].fill_(-1)
        if forced is not None:
            here["forced"][:, : forced.shape[1]] = forced
        closing = -1 if rule.closing is None else rule.closing
        here["rule"].copy_(torch.tensor([closing, rule.end, limit]))
        here["first_position"].fill_(cache.prompt_length + cache.rope_delta)
        self._staging.send()
        state.flags.zero_()
        state.history.fill_(-1)
        state.step.zero_()
        state.uniform.copy_(self.given.uniforms[:, 0])
        self._told = [0] * self.decode.rows
        self.decode.few.logits.copy_(logits.expand_as(self.decode.few.logits))
        self._take()

    def follow(self, launch: Callable[[], None], on_token: OnToken | None) -> None:
        """Launch every pass that is needed, at most one that is not.

        A pass runs the token before it, so that what step s tells decides over pass s + 2: while it is read,
        pass s + 1 keeps the device busy. Where the closing token ends it all, no pass is launched in vain.
        """
        for number in range(1, self._limit):
            if number >= 2 and self._flag(number - 2) != GO_ON:
                break
            launch()
            if on_token is not None and number >= 2:
                self._tell(number - 1, on_token)
        if self._last is not None:
            self._last.record(torch.cuda.current_stream(self.state.token.device))

    def _flag(self, step: int) -> int:
        self._wait_for(lambda: bool(self.state.flags[step]), f"step {step}")
        return int(self.state.flags[step])

    def _wait_for(self, seen: Callable[[], bool], what: str) -> None:
        """Look again and again: a wait inside the driver would be one for everything that was launched."""
        started = time.monotonic()
        while not seen():
            time.sleep(_PAUSE)
            if time.monotonic() - started > _PATIENCE:
                torch.cuda.synchronize(self.state.token.device)  # raises what happened there, if anything did
                raise EngineError(f"decode: {what} gave no sign in {_PATIENCE:.0f} s")

    def _tell(self, steps: int, on_token: OnToken) -> None:
        """Tell what was said in the first so many steps and has not been told."""
        for row, told in enumerate(self._told):
            for step in range(told, steps):
                token = int(self.state.history[row, step])
                if token < 0:
                    break
                on_token(row, token)
                self._told[row] += 1

    def hand_off(self, segments: Segments, ahead: torch.Tensor, frequencies: torch.Tensor) -> None:
        """Say, on the device, what the expert may read of the rows that its candidates read already.

        Args:
            segments: `tail_sequence` is given; lengths and rotary positions are set.
            ahead: (W,) 0 … W − 1.
            frequencies: (d / 2,) rotary.
        """
        rows = segments.tail_sequence
        segments.tail_length.copy_(self.state.tail_length[rows])
        first = self.given.first_position + self.state.count[rows]
        segments.place_text(first[:, None] + ahead, frequencies)

    def rollout(self, cache: SegmentedCache, on_token: OnToken | None) -> Rollout:
        """What was said, as soon as the last pass has run; what was launched behind it may go on.

        Nothing is copied from the device: everything follows from what it wrote into the host's memory.
        """
        if self._last is not None:
            self._wait_for(self._last.query, "the last pass")
        self._unfinished = False
        if on_token is not None:
            self._tell(self._limit, on_token)
        tokens = [
            list(takewhile(lambda token: token >= 0, row))
            for row in self.state.history[:, : self._limit].tolist()
        ]
        endings = [ending(row, self._rule, self._limit) for row in tokens]
        cache.hold([held for _, held in endings])
        return Rollout(tokens, [reason for reason, _ in endings])


def ending(tokens: Sequence[int], rule: StopRule, limit: int) -> tuple[str, int]:
    """Why a sequence that said these tokens ended, and how many of them are in the cache.

    The device's own `done` and `tail_length` say the same: see `kernels.rollout.operations.advance`.
    """
    if tokens[-1] == rule.end:
        return FINISHED if rule.closing is None else NO_TRAJECTORY_TOKEN, len(tokens) - 1
    if len(tokens) == limit:
        return LIMIT, limit - 1
    return FINISHED, len(tokens)  # the closing token, which was run as well

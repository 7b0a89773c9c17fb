# SPDX-License-Identifier: Apache-2.0
"""Reasoning on the device: the decode step with its choice and its stop test, and a host that only launches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.base import FINISHED, LIMIT, NO_TRAJECTORY_TOKEN, OnToken, Rollout
from alpamayo_rt.engine.graphs.cache import SegmentedCache
from alpamayo_rt.engine.graphs.decode import DecodePass
from alpamayo_rt.engine.graphs.segments import Segments
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.kernels.rollout.operations import (
    AT_LIMIT,
    CLOSED,
    GO_ON,
    SAID_END,
    RolloutInput,
    advance,
)
from alpamayo_rt.kernels.sampling.operations import SamplingScratch, choose_tokens, sampling_settings

_RANGES = 4
_PAUSE = 50e-6  # seconds between two looks at the flags; a decode step takes milliseconds
_PATIENCE = 60.0


class DecodeStep:
    """A pass, the choice from its logits, and the stop test: what is captured."""

    def __init__(self, decode: DecodePass):
        device, rows = decode.home.planes.device, decode.rows
        self.decode, self.state = decode, decode.state
        self.given = RolloutInput.allocate(rows, decode.tail_room - 1, device)
        self._settings = torch.zeros(4, dtype=torch.float64, device=device)
        self._masked = torch.zeros(_RANGES, 2, dtype=torch.int64, device=device)
        self._chosen = torch.zeros(rows, dtype=torch.int64, device=device)
        self._scratch = SamplingScratch.allocate(rows, decode.few.logits.shape[1], device)
        self._told: list[int] = []
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
        """Take a request, and the first token from the prompt's logits (arguments as in `Engine.reason`)."""
        if len(rule.masked) > _RANGES:
            raise InputError(f"masked: {len(rule.masked)} ranges of ids, expected {_RANGES} at most")
        if self._unfinished:
            # Somebody left before the end: what was launched may still write flags.
            torch.cuda.synchronize(self.state.token.device)
        given, state, limit = self.given, self.state, sampling.max_generate_length
        self._rule, self._limit, self._unfinished = rule, limit, self.state.flags.is_pinned()
        self._settings.copy_(sampling_settings(sampling.temperature, sampling.top_p, sampling.top_k, "cpu"))
        ranges = torch.zeros(_RANGES, 2, dtype=torch.int64)
        ranges[: len(rule.masked)] = torch.tensor(rule.masked, dtype=torch.int64).view(-1, 2)
        self._masked.copy_(ranges)
        given.uniforms[:, :limit].copy_(uniforms[:, :limit])
        given.forced.fill_(-1)
        if forced is not None:
            given.forced[:, : forced.shape[1]].copy_(forced)
        closing = -1 if rule.closing is None else rule.closing
        given.rule.copy_(torch.tensor([closing, rule.end, limit]))
        given.first_position.fill_(cache.prompt_length + cache.rope_delta)
        state.flags.zero_()
        state.history.fill_(-1)
        state.step.zero_()
        state.uniform.copy_(uniforms[:, 0])
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

    def _flag(self, step: int) -> int:
        started = time.monotonic()
        while not (flag := int(self.state.flags[step])):
            time.sleep(_PAUSE)
            if time.monotonic() - started > _PATIENCE:
                torch.cuda.synchronize(self.state.token.device)  # raises what happened there, if anything did
                raise EngineError(f"decode: step {step} gave no sign in {_PATIENCE:.0f} s")
        return flag

    def _tell(self, steps: int, on_token: OnToken) -> None:
        """Tell what was said in the first so many steps and has not been told."""
        for row, told in enumerate(self._told):
            for step in range(told, steps):
                token = int(self.state.history[row, step])
                if token < 0:
                    break
                on_token(row, token)
                self._told[row] += 1

    def hand_off(self, sequence: torch.Tensor, segments: Segments, waypoints: int, config: TextConfig) -> None:
        """Say, on the device, what the expert may read, where candidate k reads row sequence[k] (K,)."""
        segments.tail_sequence.copy_(sequence)
        segments.tail_length.copy_(self.state.tail_length[sequence])
        start = self.given.first_position + self.state.count[sequence]
        positions = start[:, None] + torch.arange(waypoints, device=start.device)
        segments.place(positions.expand(3, -1, -1), config)

    def rollout(self, cache: SegmentedCache, on_token: OnToken | None) -> Rollout:
        """What was said, when the device is done; the cache's columns are brought up to date."""
        if self._unfinished:
            torch.cuda.synchronize(self.state.token.device)
        self._unfinished = False
        state = self.state
        cache.tail_length = state.tail_length.tolist()
        cache.describe(state.tail_length)
        counts, done, history = state.count.tolist(), state.done.tolist(), state.history
        if on_token is not None:
            self._tell(self._limit, on_token)
        ended = FINISHED if self._rule.closing is None else NO_TRAJECTORY_TOKEN
        reasons = {CLOSED: FINISHED, SAID_END: ended, AT_LIMIT: LIMIT}
        tokens: Sequence[list[int]] = [row[:n] for row, n in zip(history.tolist(), counts, strict=True)]
        return Rollout(list(tokens), [reasons[code] for code in done])

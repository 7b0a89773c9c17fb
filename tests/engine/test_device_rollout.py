# SPDX-License-Identifier: Apache-2.0
"""Rollouts kept on the device say, store and end as `Engine.reason` does; the kernel as its twin."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreted import run_again_in_the_interpreter
from scripted import CLOSING, DRIVING, END, PROMPT_LENGTH, QUESTION, ROPE_DELTA, ScriptedEngine, one_hot

from alpamayo_rt.engine.base import FINISHED, LIMIT, NO_TRAJECTORY_TOKEN
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.kernels.rollout import operations as ops
from alpamayo_rt.kernels.sampling.operations import choose_tokens_twin, sampling_settings

CAPACITY, TAIL_START, TAIL_ROOM = 7, 40, 9
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Proposing(ScriptedEngine):
    """Proposes its scripts whatever was said instead; tells each row's cached tokens."""

    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        following = []
        for sequence, _ in zip(sequences, tokens, strict=True):
            order = len(cache.sequence_slots(sequence))
            cache.claim(torch.tensor([sequence]), torch.tensor([order]))
            following.append(self.scripts[sequence][order - PROMPT_LENGTH + 1])
        return one_hot(following)

    def cached(self) -> list[int]:
        return [len(self.cache.sequence_slots(s)) - PROMPT_LENGTH for s in range(len(self.scripts))]


def on_the_device(
    first: int, scripts: list[list[int]], forced: torch.Tensor, rule: StopRule, limit: int, late: int
) -> tuple[ops.RolloutState, list[int]]:
    """The loop of an engine that is `late` passes behind its flags; returns the flags too."""
    rows = len(scripts)
    given = ops.RolloutInput.allocate(rows, CAPACITY, DEVICE)
    state = ops.RolloutState.allocate(rows, CAPACITY, DEVICE)
    given.forced.copy_(forced)
    given.uniforms.copy_(torch.arange(rows * CAPACITY).view(rows, CAPACITY) / (rows * CAPACITY))
    closing = -1 if rule.closing is None else rule.closing
    given.rule.copy_(torch.tensor([closing, rule.end, limit]))
    given.first_position.fill_(PROMPT_LENGTH + ROPE_DELTA)
    for tensor in (state.done, state.tail_length, state.count, state.token):
        tensor.fill_(5)  # left over from the last request
    choice = sampling_settings(1.0, 1.0, None, "cpu")
    masked = torch.tensor(rule.masked or [(0, 0)])
    chosen = torch.zeros(rows, dtype=torch.int64, device=DEVICE)
    flags: list[int] = []
    proposals = [first] * rows
    went = [0] * rows
    stop_after: int | None = None
    while stop_after is None or len(flags) < stop_after:
        picked = torch.empty(rows, dtype=torch.int64)
        choose_tokens_twin(one_hot(proposals), state.uniform.cpu(), choice, masked, picked)
        chosen.copy_(picked)
        before = state.tail_length.tolist()
        ops.advance(chosen, given, state, TAIL_START, TAIL_ROOM)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        step = len(flags)
        flags.append(int(state.flags[min(step, CAPACITY)]))
        if step:
            assert [d - b for d, b in zip(state.tail_length.tolist(), before, strict=True)] == went
        tails, went = state.tail_length.tolist(), [int(d == ops.GOING) for d in state.done.tolist()]
        assert state.slot.tolist() == [TAIL_START + r * TAIL_ROOM + t for r, t in enumerate(tails)]
        assert state.position.tolist() == [PROMPT_LENGTH + ROPE_DELTA + t for t in tails]
        assert state.attended.tolist() == [t + w for t, w in zip(tails, went, strict=True)]
        assert all(t + w < TAIL_ROOM for t, w in zip(tails, went, strict=True))
        assert int(state.step) == step + 1
        expected = given.uniforms[:, step + 1].tolist() if step + 1 < CAPACITY else [0.0] * rows
        assert state.uniform.tolist() == expected
        if flags[-1] == ops.ENDED and stop_after is None:
            stop_after = len(flags) + late
        # What a row that has ended computes is noise.
        proposals = [
            script[min(t + 1, len(script) - 1)] if w else 7
            for script, t, w in zip(scripts, tails, went, strict=True)
        ]
    return state, flags


token = st.sampled_from([3, 4, 5, END, CLOSING, 6, 7])
script = st.lists(token, min_size=CAPACITY + 2, max_size=CAPACITY + 2)
override = st.lists(st.sampled_from([-1, -1, -1, -1, 8, CLOSING, END]), min_size=CAPACITY, max_size=CAPACITY)


@given(
    st.lists(st.tuples(script, override), min_size=1, max_size=4),
    st.integers(1, CAPACITY),
    st.sampled_from([DRIVING, QUESTION]),
    st.integers(0, 2),
)
@example([([3] * 9, [-1] * 7)], CAPACITY, DRIVING, 2)
@example([([3, 3, CLOSING, 5, 5, 5, 5, 5, 5], [-1] * 7)], 3, DRIVING, 0)
@example([([3, 3, CLOSING, 5, 5, 5, 5, 5, 5], [-1] * 7)], 4, DRIVING, 1)
@settings(max_examples=25 if INTERPRETED else 60)
def test_device_rollout_equals_the_engines(
    drawn: list[tuple[list[int], list[int]]], limit: int, rule: StopRule, late: int
) -> None:
    first = drawn[0][0][0]
    scripts = [[first, *s[1:]] for s, _ in drawn]
    forced = torch.tensor([f for _, f in drawn])
    engine = Proposing(scripts)
    uniforms = torch.full((len(scripts), limit), 0.5, dtype=torch.float64)
    expected = engine.reason(
        engine.cache, one_hot([first])[0], Sampling(1.0, 1.0, None, limit), rule, uniforms, forced
    )
    state, flags = on_the_device(first, scripts, forced, rule, limit, late)
    said = [row[:count] for row, count in zip(state.history.tolist(), state.count.tolist(), strict=True)]
    assert said == expected.tokens
    reasons = {
        ops.CLOSED: FINISHED,
        ops.SAID_END: FINISHED if rule.closing is None else NO_TRAJECTORY_TOKEN,
        ops.AT_LIMIT: LIMIT,
    }
    assert [reasons[d] for d in state.done.tolist()] == expected.stop_reasons
    assert state.tail_length.tolist() == engine.cached()
    ended = flags.index(ops.ENDED)
    assert flags[ended:] == [ops.ENDED] * (1 + late)
    assert ops.ONE_MORE not in flags[: max(ended - 1, 0)]
    # One more pass: exactly where the last token of all rows that went on was the closing one.
    if ended > 0:
        run = {row[ended - 1] for row in said if len(row) >= ended and row[ended - 1] != rule.end}
        assert (flags[ended - 1] == ops.ONE_MORE) == (run == {rule.closing})


def test_kernel_in_the_interpreter() -> None:
    run_again_in_the_interpreter(__file__)


@pytest.mark.gpu
def test_flags_lie_where_the_host_reads_them_without_a_copy() -> None:
    state = ops.RolloutState.allocate(2, 4, "cuda")
    assert state.flags.is_pinned()

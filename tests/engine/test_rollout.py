# SPDX-License-Identifier: Apache-2.0
"""When a sequence ends, why, and what is in the cache by then."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripted import CLOSING, DRIVING, END, PROMPT_LENGTH, QUESTION, ROPE_DELTA, WAYPOINTS, ScriptedEngine

from alpamayo_rt.engine.base import FINISHED, LIMIT, NO_TRAJECTORY_TOKEN, Rollout
from alpamayo_rt.engine.sampling import Sampling

LIMIT_OF = 6


def in_cache(engine: ScriptedEngine, sequence: int) -> list[int]:
    return [t for call in engine.appended for s, t in call if s == sequence]


@pytest.mark.parametrize(
    ("script", "said", "reason", "cached"),
    [
        # the closing token enters the cache, and nothing after it is kept
        ([5, 6, CLOSING, 7], [5, 6, CLOSING], FINISHED, [5, 6, CLOSING]),
        ([CLOSING, 7], [CLOSING], FINISHED, [CLOSING]),
        # the one after it is sampled too: with it the limit is reached
        ([5, 5, 5, 5, CLOSING, 7], [5, 5, 5, 5, CLOSING], FINISHED, [5, 5, 5, 5, CLOSING]),
        # closing exactly at the limit: no step is left in which it could enter the cache
        ([5, 5, 5, 5, 5, CLOSING], [5, 5, 5, 5, 5, CLOSING], LIMIT, [5, 5, 5, 5, 5]),
        ([5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 10], LIMIT, [5, 6, 7, 8, 9]),
        ([5, END, 7], [5, END], NO_TRAJECTORY_TOKEN, [5]),
        ([END], [END], NO_TRAJECTORY_TOKEN, []),
        ([5, 5, 5, 5, 5, END], [5, 5, 5, 5, 5, END], NO_TRAJECTORY_TOKEN, [5, 5, 5, 5, 5]),
    ],
)
def test_driving_rule(script: list[int], said: list[int], reason: str, cached: list[int]) -> None:
    engine = ScriptedEngine([script])
    rollout = engine.roll_out(DRIVING, LIMIT_OF)
    assert rollout.tokens == [said]
    assert rollout.stop_reasons == [reason]
    assert in_cache(engine, 0) == cached
    assert engine.cache.length == PROMPT_LENGTH + len(cached)


@pytest.mark.parametrize(
    ("script", "said", "reason"),
    [
        ([5, END, 7], [5, END], FINISHED),
        ([END], [END], FINISHED),
        # the trajectory's start is an ordinary token of an answer, and so are trajectory bins
        ([5, CLOSING, 15, 6, END], [5, CLOSING, 15, 6, END], FINISHED),
        ([5, CLOSING, CLOSING, 8, 9, 10], [5, CLOSING, CLOSING, 8, 9, 10], LIMIT),
        ([5, 5, 5, 5, 5, END], [5, 5, 5, 5, 5, END], FINISHED),
    ],
)
def test_question_rule(script: list[int], said: list[int], reason: str) -> None:
    rollout = ScriptedEngine([script]).roll_out(QUESTION, LIMIT_OF)
    assert rollout.tokens == [said]
    assert rollout.stop_reasons == [reason]


def test_rows_that_end_at_different_steps_leave_the_batch_one_by_one() -> None:
    engine = ScriptedEngine(
        [[CLOSING, 9], [5, 6, CLOSING, 9], [5, END, 9], [5, 6, 7, 8, 9, 10], [5, 6, 7, CLOSING, 9]]
    )
    rollout = engine.roll_out(DRIVING, LIMIT_OF)
    assert rollout.tokens == [[CLOSING], [5, 6, CLOSING], [5, END], [5, 6, 7, 8, 9, 10], [5, 6, 7, CLOSING]]
    assert rollout.stop_reasons == [FINISHED, FINISHED, NO_TRAJECTORY_TOKEN, LIMIT, FINISHED]
    # An ended token never enters the cache, a closing one does with everyone else's of its step.
    assert [[s for s, _ in call] for call in engine.appended] == [
        [0, 1, 2, 3, 4],
        [1, 3, 4],
        [1, 3, 4],
        [3, 4],
        [3],
    ]


def test_nothing_runs_after_the_last_row_has_ended() -> None:
    engine = ScriptedEngine([[5, CLOSING, 7, 7], [5, CLOSING, 8, 8]])
    engine.roll_out(DRIVING, 100)
    assert len(engine.appended) == 2


def test_masked_tokens_are_not_said_in_a_rollout() -> None:
    engine = ScriptedEngine([[5, CLOSING]])
    logits = torch.full((20,), -5.0)
    logits[14:] = 50.0  # trajectory bins would be by far the likeliest
    logits[5] = 10.0
    draws = torch.full((1, 4), 0.999, dtype=torch.float64)
    rollout = engine.reason(engine.cache, logits, Sampling(0.6, 0.98, None, 4), DRIVING, draws)
    assert rollout.tokens == [[5, CLOSING]]


ends = st.sampled_from([CLOSING, END, 7])


@given(st.lists(st.tuples(st.integers(0, 7), ends), min_size=1, max_size=5))
def test_rule_for_any_mixture_of_rows(rows: list[tuple[int, int]]) -> None:
    scripts = [[5] * before + [end] + [6] * 10 for before, end in rows]
    engine = ScriptedEngine(scripts)
    rollout = engine.roll_out(DRIVING, LIMIT_OF)
    for row, (before, end) in enumerate(rows):
        if end == END and before < LIMIT_OF:
            said, cached, reason = before + 1, before, NO_TRAJECTORY_TOKEN
        elif end == CLOSING and before < LIMIT_OF - 1:
            said, cached, reason = before + 1, before + 1, FINISHED
        else:
            said, cached, reason = LIMIT_OF, LIMIT_OF - 1, LIMIT
        assert rollout.tokens[row] == scripts[row][:said]
        assert rollout.stop_reasons[row] == reason
        assert in_cache(engine, row) == scripts[row][:cached]
    assert len(engine.appended) <= LIMIT_OF - 1


@pytest.mark.parametrize(
    ("script", "offset", "attended"),
    [
        ([5, 6, CLOSING, 7], 3, 3),
        ([CLOSING, 7], 1, 1),
        # without a closing token in the cache one position stays empty
        ([5, 5, 5, 5, 5, CLOSING], 6, 5),
        ([5, 6, 7, 8, 9, 10], 6, 5),
        ([5, END], 2, 1),
    ],
)
def test_hand_off_of_each_ending(script: list[int], offset: int, attended: int) -> None:
    engine = ScriptedEngine([script])
    handed = engine.hand_off(engine.roll_out(DRIVING, LIMIT_OF), [0, 0])
    assert handed.offsets.tolist() == [PROMPT_LENGTH + offset] * 2
    assert handed.attended.tolist() == [[True] * (PROMPT_LENGTH + attended)] * 2
    first = PROMPT_LENGTH + offset + ROPE_DELTA
    assert handed.position_ids.tolist() == [[list(range(first, first + WAYPOINTS))] * 2] * 3


def test_hand_off_of_mixed_rows_shows_each_candidate_its_own_sequence() -> None:
    engine = ScriptedEngine([[5, CLOSING], [5, 6, 7, CLOSING], [5, END]])
    handed = engine.hand_off(engine.roll_out(DRIVING, LIMIT_OF), [2, 0, 1, 1])
    owner = engine.cache.owner[: engine.cache.length].tolist()
    for row, sequence in enumerate([2, 0, 1, 1]):
        assert handed.attended[row].tolist() == [o in (-1, sequence) for o in owner]
    assert (handed.offsets - PROMPT_LENGTH).tolist() == [2, 2, 4, 4]


def test_hand_off_hides_what_a_forced_sequence_wrote_after_its_closing_token() -> None:
    engine = ScriptedEngine([[5, CLOSING, 7, CLOSING, 8]])
    for token in (5, CLOSING, 7, CLOSING):
        engine.append(engine.cache, [0], [[token]])
    handed = engine.hand_off(Rollout([[5, CLOSING, 7, CLOSING, 8]], [FINISHED]), [0])
    assert handed.attended.tolist() == [[True] * (PROMPT_LENGTH + 2) + [False] * 2]
    assert handed.offsets.tolist() == [PROMPT_LENGTH + 2]


def test_forced_tokens_are_taken_and_every_token_is_told() -> None:
    engine = ScriptedEngine([[5, 9, CLOSING, 6]])
    logits = torch.zeros(20)
    logits[7] = 50.0  # what would be chosen
    forced = torch.tensor([[5, -1, -1, -1]])
    told: list[tuple[int, int]] = []
    rollout = engine.reason(
        engine.cache,
        logits,
        Sampling(0, 1, None, 4),
        DRIVING,
        torch.zeros(1, 4, dtype=torch.float64),
        forced,
        lambda sequence, token: told.append((sequence, token)),
    )
    assert rollout.tokens == [[5, 9, CLOSING]]
    assert told == [(0, 5), (0, 9), (0, CLOSING)]

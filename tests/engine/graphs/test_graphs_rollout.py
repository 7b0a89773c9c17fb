# SPDX-License-Identifier: Apache-2.0
"""When the fast engine's sequences end, what it tells meanwhile, and how many passes it launches for that."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import FLOW, WAYPOINTS, Pair, distance, greedy, same_caches, started
from situations import driving_sample

from alpamayo_rt import InputError
from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.engine.base import FINISHED, LIMIT, NO_TRAJECTORY_TOKEN, Engine, Rollout
from alpamayo_rt.engine.graphs.decode import DecodePass
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule, choose, draw_uniforms

CLOSING, END = 33, 2
ROOM = 1000
RULE = StopRule(((40, 60), (70, 71)), CLOSING, END)
QUESTION = StopRule((), None, END)


class Starts:
    """Fresh caches behind one prompt, whose images are encoded once by each engine."""

    def __init__(self, pair: Pair):
        self.pair = pair
        models = (pair.eager_model, pair.graph_model)
        # The caches are given back at once.
        self.begun = [started(model, driving_sample((1,)), ROOM)[2:] for model in models]

    def roll_out(
        self,
        engine: Engine,
        sampling: Sampling,
        rule: StopRule,
        sequences: int,
        forced: torch.Tensor | None = None,
        on_token: object = None,
    ) -> tuple[Rollout, KvCache]:
        prompt, features = self.begun[engine is self.pair.graphs]
        cache, logits = engine.prefill(prompt, features, ROOM)
        uniforms = draw_uniforms(sequences, sampling.max_generate_length, 3)
        return engine.reason(cache, logits, sampling, rule, uniforms, forced, on_token), cache  # type: ignore[arg-type]

    def between_two(self, sampling: Sampling, row: int, said: list[int], tokens: set[int]) -> None:
        """Two engines may only differ where the number that chooses lies next to both tokens' shares.

        Random weights spread the mass over thousands of tokens, of 1e-4 each, and where the eager choice cuts
        the tail off it sums in float32: a token more or less of it moves every number by its share. Tokens of
        almost equal logits may also change places.
        """
        assert not sampling.greedy
        prompt, features = self.begun[0]
        cache, logits = self.pair.eager.prefill(prompt, features, ROOM)
        if said:
            logits = self.pair.eager.append(cache, [0], [said])[0]
        number = draw_uniforms(row + 1, sampling.max_generate_length, 3)[row, len(said)]
        near = number + torch.linspace(-2e-4, 2e-4, 81, dtype=torch.float64)
        chosen = choose(logits.expand(len(near), -1), near.clamp(0, 1 - 1e-12), sampling, RULE.masked)
        for token in tokens:
            assert float((logits[chosen] - logits[token]).abs().min()) < 1e-5


@pytest.fixture(scope="module")
def starts(tiny: Pair) -> Starts:
    return Starts(tiny)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each decode pass."""
    counted: list[int] = []
    run = DecodePass.__call__

    def counting(self: DecodePass) -> None:
        counted.append(len(counted))
        run(self)

    monkeypatch.setattr(DecodePass, "__call__", counting)
    return counted


def script(*rows: list[int], limit: int) -> torch.Tensor:
    """Forced tokens; what is not said is 5."""
    forced = torch.full((len(rows), limit), 5)
    for row, tokens in enumerate(rows):
        forced[row, : len(tokens)] = torch.tensor(tokens[:limit], dtype=torch.int64)
    return forced


@pytest.mark.parametrize(
    ("said", "limit", "reason", "launched"),
    [
        # The closing token enters the cache with the last pass, and none is launched in vain.
        ([6, 7, CLOSING], 8, FINISHED, 3),
        ([CLOSING], 8, FINISHED, 1),
        # The end token is known after the next pass was launched: that one is masked.
        ([6, 7, END], 8, NO_TRAJECTORY_TOKEN, 3),
        ([END], 8, NO_TRAJECTORY_TOKEN, 1),
        # Known on the host beforehand: the last token allowed is not run.
        ([6, 7, 8], 3, LIMIT, 2),
        ([6, 7, CLOSING], 3, LIMIT, 2),
        ([6, 7, END], 3, NO_TRAJECTORY_TOKEN, 2),
        ([6], 1, LIMIT, 0),
        ([CLOSING], 1, LIMIT, 0),
        ([END], 1, NO_TRAJECTORY_TOKEN, 0),
        ([6, 7], 2, LIMIT, 1),
        ([CLOSING], 2, FINISHED, 1),
    ],
)
def test_endings(
    starts: Starts, passes: list[int], said: list[int], limit: int, reason: str, launched: int
) -> None:
    forced = script(said, limit=limit)
    ours, cache = starts.roll_out(starts.pair.graphs, greedy(limit), RULE, 1, forced)
    assert (ours.tokens, ours.stop_reasons) == ([said], [reason])
    assert len(passes) == launched
    wanted, eager_cache = starts.roll_out(starts.pair.eager, greedy(limit), RULE, 1, forced)
    assert ours == wanted
    same_caches(cache, eager_cache, [0])


def test_an_answer_ends_with_the_end_token(starts: Starts) -> None:
    for said, reason in (([6, CLOSING, END], FINISHED), ([6, CLOSING, 7, 8, 9], LIMIT)):
        found = [
            starts.roll_out(engine, greedy(5), QUESTION, 1, script(said, limit=5))[0]
            for engine in starts.pair.both
        ]
        assert found[0] == found[1] == Rollout([said], [reason])


tails = st.tuples(st.integers(0, 6), st.sampled_from([CLOSING, END, 8]))


@settings(max_examples=8)
@given(st.lists(tails, min_size=1, max_size=5))
def test_any_mixture_of_rows(starts: Starts, rows: list[tuple[int, int]]) -> None:
    forced = script(*([6] * before + [last] for before, last in rows), limit=6)
    wanted, eager_cache = starts.roll_out(starts.pair.eager, greedy(6), RULE, len(rows), forced)
    ours, cache = starts.roll_out(starts.pair.graphs, greedy(6), RULE, len(rows), forced)
    assert ours == wanted
    same_caches(cache, eager_cache, range(len(rows)))


@pytest.mark.parametrize("sequences", [1, 4])
@pytest.mark.parametrize(
    "sampling",
    [
        greedy(9),
        Sampling(1.0, 1.0, None, 9),
        Sampling(0.6, 0.98, None, 9),
        Sampling(5.0, 0.9, 50, 9),
        Sampling(0.7, 0.0, None, 9),
    ],
    ids=["greedy", "plain", "usual", "hot", "top_p_0"],
)
def test_the_same_numbers_choose_the_same_tokens(starts: Starts, sequences: int, sampling: Sampling) -> None:
    wanted, _ = starts.roll_out(starts.pair.eager, sampling, RULE, sequences)
    ours, _ = starts.roll_out(starts.pair.graphs, sampling, RULE, sequences)
    for row, (own, other) in enumerate(zip(ours.tokens, wanted.tokens, strict=True)):
        at = next((i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), None)
        if at is None:
            assert own == other
        else:
            starts.between_two(sampling, row, own[:at], {own[at], other[at]})
    assert all(not 40 <= token < 60 and token != 70 for row in ours.tokens for token in row)


def test_some_tokens_forced_others_chosen(starts: Starts) -> None:
    forced = torch.full((2, 8), -1)
    forced[0, 2], forced[1, 0], forced[1, 5] = 45, 11, CLOSING  # 45 is masked: it is taken all the same
    found = [
        starts.roll_out(engine, Sampling(1.0, 1.0, None, 8), RULE, 2, forced)[0] for engine in starts.pair.both
    ]
    assert found[0] == found[1]
    assert found[1].tokens[0][2] == 45
    assert found[1].tokens[1][0] == 11


@pytest.mark.parametrize(("sequences", "limit"), [(1, 1), (1, 2), (1, 7), (3, 7)])
def test_every_token_is_told_once_and_early(
    starts: Starts, passes: list[int], sequences: int, limit: int
) -> None:
    told: list[list[int]] = [[] for _ in range(sequences)]
    launched_by: list[tuple[int, int]] = []

    def on_token(sequence: int, token: int) -> None:
        launched_by.append((len(told[sequence]), len(passes)))
        told[sequence].append(token)

    rollout, _ = starts.roll_out(
        starts.pair.graphs, Sampling(1.0, 1.0, None, limit), RULE, sequences, None, on_token
    )
    assert told == rollout.tokens
    # Step s is read while the pass behind the next one runs.
    assert all(launched <= step + 2 for step, launched in launched_by)


@pytest.mark.parametrize("at", [0, 2, 6])
def test_an_exception_in_on_token_leaves_the_engine_usable(starts: Starts, at: int) -> None:
    engine, sampling = starts.pair.graphs, Sampling(1.0, 1.0, None, 7)
    before, _ = starts.roll_out(engine, sampling, RULE, 2)
    heard: list[int] = []

    def leave(sequence: int, token: int) -> None:
        if len(heard) == at:
            raise KeyboardInterrupt
        heard.append(token)

    with pytest.raises(KeyboardInterrupt):
        starts.roll_out(engine, sampling, RULE, 2, script([6], [7], limit=7), leave)
    again, cache = starts.roll_out(engine, sampling, RULE, 2)
    assert again == before
    wanted, eager_cache = starts.roll_out(starts.pair.eager, sampling, RULE, 2)
    assert again == wanted
    same_caches(cache, eager_cache, [0, 1])


def test_a_left_drive_leaves_the_engine_usable(tiny: Pair) -> None:
    noise = draw_noise(2, WAYPOINTS, 0)
    found = []
    for attempt in range(3):
        cache, logits, *_ = started(tiny.graph_model, driving_sample((1,)), ROOM)

        def leave(sequence: int, token: int) -> None:
            raise InputError("left")

        given = (cache, logits, greedy(5), RULE, draw_uniforms(2, 5, 0), [0, 1], noise, 2, lambda stage: None)
        if attempt == 1:
            with pytest.raises(InputError, match="left"):
                tiny.graphs.drive(*given, on_token=leave)
        else:
            found.append(tiny.graphs.drive(*given))
    assert found[0][0] == found[1][0]
    assert distance(found[1][1], found[0][1]) < FLOW


def test_too_many_masked_ranges_and_sequences_are_refused(starts: Starts) -> None:
    ranges = tuple((i, i + 1) for i in range(40, 50, 2))
    with pytest.raises(InputError, match=r"masked: 5 ranges of ids, expected 4 at most"):
        starts.roll_out(starts.pair.graphs, greedy(3), StopRule(ranges, CLOSING, END), 1)
    with pytest.raises(InputError, match=r"17 sequences, the engine graphs decodes 16 at most"):
        starts.roll_out(starts.pair.graphs, greedy(3), RULE, 17)

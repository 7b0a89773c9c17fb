# SPDX-License-Identifier: Apache-2.0
"""Cache sets: grown and used again, kept where somebody holds them, refused where they are too small."""

from __future__ import annotations

import gc
import re

import pytest
import torch
from pairs import CHECKPOINT, FLOW, Pair, distance, keys_and_values, on_graphs, started
from situations import driving_sample, question_sample

from alpamayo_rt import InputError, Result, Sample, load
from alpamayo_rt.engine.graphs.cache import CacheSets
from alpamayo_rt.engine.graphs.graph import Graphs
from alpamayo_rt.errors import EngineError

SHORT = {"max_generate_length": 5, "num_diffusion_steps": 2, "num_candidates": 2}
CPU = torch.device("cpu")


def equal(ours: Result, wanted: Result) -> None:
    assert ours.generated_token_ids == wanted.generated_token_ids
    assert ours.stop_reasons == wanted.stop_reasons
    if wanted.actions is not None:
        assert ours.actions is not None
        assert distance(ours.actions, wanted.actions) < FLOW


def test_requests_of_different_lengths_one_after_the_other(tiny: Pair) -> None:
    model = on_graphs(load(CHECKPOINT, "eager", "fp32", "cpu"))
    short, long = driving_sample((1,)), driving_sample((0, 1, 2, 6), 4)
    requests: list[tuple[Sample, dict[str, int | bool]]] = [
        (short, {}),
        (long, {}),  # a longer prompt
        (short, {}),
        (short, {"multi_seq": True, "num_candidates": 5, "max_generate_length": 70}),  # more room behind it
        (long, {}),
        (question_sample(), {"max_generate_length": 5}),
    ]
    capacities = []
    for sample, more in requests:
        settings = {"temperature": 0, **SHORT, **more}
        equal(model.infer(sample, **settings), tiny.eager_model.infer(sample, **settings))
        (only,) = model.engine._sets._sets  # type: ignore[attr-defined]
        capacities.append((only.tail_start, only.capacity - only.tail_start))
    assert capacities == sorted(capacities)
    assert capacities[1][0] > capacities[0][0]
    assert len(set(capacities[1:3])) == 1


def test_a_cache_that_a_trace_holds_is_not_overwritten(tiny: Pair) -> None:
    model = tiny.graph_model
    first = model.infer(driving_sample(), keep_trace=True, temperature=0, **SHORT)
    assert first.trace is not None
    cache = first.trace.hand_off.cache
    before = keys_and_values(cache, 0)
    again = model.infer(driving_sample(seed=8), temperature=0, **SHORT)
    equal(again, tiny.eager_model.infer(driving_sample(seed=8), temperature=0, **SHORT))
    assert torch.equal(keys_and_values(cache, 0), before)
    # The flow over the kept cache still gives what it gave.
    trace = first.trace
    action = tiny.graphs.denoise(trace.noise, trace.steps, trace.hand_off)
    assert distance(action, trace.action) < FLOW


def test_sets_are_given_back_and_five_at_once_are_too_many(tiny: Pair) -> None:
    gc.collect()
    held = [started(tiny.graph_model, driving_sample((1,), seed=i), 100)[0] for i in range(4)]
    with pytest.raises(EngineError, match="cache: 4 are held at once, expected fewer"):
        started(tiny.graph_model, driving_sample((1,)), 100)
    wanted = started(tiny.eager_model, driving_sample((1,), seed=2), 100)[0]
    assert distance(keys_and_values(held[2], 0), keys_and_values(wanted, 0)) < 1e-5
    held.clear()
    started(tiny.graph_model, driving_sample((1,)), 100)


@pytest.mark.parametrize("multi_seq", [False, True])
def test_guidance_through_two_sets(tiny: Pair, multi_seq: bool) -> None:
    sample = driving_sample(navigation="Turn left in 20 m")
    settings = {**SHORT, "guidance_weight": 1.5, "multi_seq": multi_seq, "temperature": 0}
    for _ in range(2):  # the second time nothing is made anew
        equal(tiny.graph_model.infer(sample, **settings), tiny.eager_model.infer(sample, **settings))
    plain = tiny.graph_model.infer(sample, **{**settings, "guidance_weight": None})
    guided = tiny.graph_model.infer(sample, **settings)
    assert distance(guided.actions, plain.actions) > 1e-3


def test_a_request_beyond_the_capacity_is_refused_with_both_numbers() -> None:
    model = on_graphs(load(CHECKPOINT, "eager", "fp32", "cpu"), most_slots=2000)
    small = model.infer(driving_sample((1,)), temperature=0, **SHORT)
    with pytest.raises(InputError, match="the engine's capacity is 2000") as refused:
        model.infer(driving_sample((1,)), max_generate_length=900)
    prompt, tails, both = map(
        int, re.findall(r"(\d+) prompt tokens and (\d+) to follow are (\d+) cache", str(refused.value))[0]
    )
    assert prompt + tails == both > 2000
    assert prompt >= small.prompt_tokens
    equal(model.infer(driving_sample((1,)), temperature=0, **SHORT), small)


def test_more_than_was_set_aside_is_refused(tiny: Pair) -> None:
    cache, *_ = started(tiny.graph_model, driving_sample((1,)), 0)
    with pytest.raises(InputError, match=r"16 sequences of 200 tokens need 4096 cache slots, \d+ were set"):
        tiny.graphs.append(cache, range(16), [[5] * 200] * 16)


def test_sequences_cannot_be_divided_anew(tiny: Pair) -> None:
    cache, *_ = started(tiny.graph_model, driving_sample((1,)), 500)
    tiny.graphs.append(cache, [0, 1], [[5], [6]])
    with pytest.raises(EngineError, match="holds 2 sequences already"):
        tiny.graphs.append(cache, [2], [[7]])


def test_a_set_never_shrinks(tiny: Pair) -> None:
    sets = CacheSets(tiny.eager_model.config.language, 4096, CPU, torch.float32)
    first, fresh = sets.take(300, 100)
    assert (fresh, first.tail_start, first.capacity) == (True, 512, 768)
    assert sets.take(512, 256) == (first, False)
    grown, fresh = sets.take(100, 300)
    assert (fresh, grown.number, grown.tail_start, grown.capacity) == (True, 0, 512, 1024)
    held = grown.begin(100, 0)
    second, fresh = sets.take(100, 10)
    assert (fresh, second.number) == (True, 1)
    del held
    assert sets.take(100, 10) == (grown, False)


def test_the_least_recently_used_work_is_forgotten_first() -> None:
    graphs, made = Graphs(CPU, keep=2), []

    def get(key: str) -> None:
        def make() -> object:
            made.append(key)
            return lambda: None

        graphs.get(key, make)  # type: ignore[arg-type]

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    graphs.clear()
    get("a")
    assert made[-1] == "a"

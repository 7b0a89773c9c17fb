# SPDX-License-Identifier: Apache-2.0
"""Stage by stage, the fast engine computes what the eager one does, within float32 rounding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pairs import FLOW, NEAR, WAYPOINTS, Pair, distance, greedy, keys_and_values, same_caches, started
from situations import driving_sample

from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.engine.hand_off import hand_off, hand_off_from_arrays
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, draw_uniforms
from alpamayo_rt.prompt.prompt import prepare_images

ROOM = 1000
SEQUENCES = [[11, 12, 13, 14], [21], [31, 32, 34]]


def after(pair: Pair, tokens: Sequence[Sequence[int]], unseen: int | None = None) -> list[KvCache]:
    """Both engines' caches behind some tokens."""
    caches = []
    for model in (pair.eager_model, pair.graph_model):
        cache, *_ = started(model, driving_sample(), ROOM)
        model.engine.append(cache, range(len(tokens)), tokens, unseen)
        caches.append(cache)
    return caches


def test_images_of_one_size_and_of_two(pair: Pair) -> None:
    images = prepare_images(driving_sample((0, 1), 2), pair.eager_model.config, torch.device("cpu"))
    other = prepare_images(driving_sample((1,), 1, seed=3), pair.eager_model.config, torch.device("cpu"))
    # The same patches laid out the other way round are another size.
    turned = other.grid[:, [0, 2, 1]]
    pixels = torch.cat([images.pixel_values, other.pixel_values])
    mixed = type(images)(pixels, torch.cat([images.grid, turned]))
    for given in (images, mixed, other):
        ours, wanted = pair.graphs.encode_images(given), pair.eager.encode_images(given)
        assert distance(ours.embeds, wanted.embeds) < NEAR
        assert len(ours.deepstack) == len(wanted.deepstack)
        for a, b in zip(ours.deepstack, wanted.deepstack, strict=True):
            assert distance(a, b) < NEAR


@pytest.mark.parametrize("cameras", [(1,), (0, 1)])
def test_prefill(pair: Pair, cameras: tuple[int, ...]) -> None:
    sample = driving_sample(cameras, navigation=None)
    wanted, logits, prompt, _ = started(pair.eager_model, sample, ROOM)
    ours, our_logits, *_ = started(pair.graph_model, sample, ROOM)
    assert ours.prompt_length == wanted.prompt_length == len(prompt)
    assert ours.rope_delta == wanted.rope_delta
    assert our_logits.dtype == torch.float32
    assert distance(our_logits, logits) < NEAR
    same_caches(ours, wanted, [0])


def test_append_to_several_sequences_in_several_calls(pair: Pair) -> None:
    wanted, ours = after(pair, SEQUENCES)
    same_caches(ours, wanted, [0, 1, 2])
    for sequences, tokens in (([0, 1, 2], [[5], [6], [7]]), ([2, 0], [[8, 9], [10]]), ([1], [[3, 4, 5]])):
        logits = [e.append(c, sequences, tokens) for e, c in zip(pair.both, (wanted, ours), strict=True)]
        assert distance(logits[1], logits[0]) < NEAR
        same_caches(ours, wanted, [0, 1, 2])


@pytest.mark.parametrize(
    "tokens",
    [[[11, 40, 13]], [[40, 11]], [[11, 40]], [[40]], [[11, 40, 40, 12, 40], [21, 22], [40, 31]]],
    ids=["middle", "first", "last", "alone", "several"],
)
def test_unseen_tokens(tiny: Pair, tokens: list[list[int]]) -> None:
    wanted, ours = after(tiny, tokens, unseen=40)
    rows = range(len(tokens))
    same_caches(ours, wanted, rows)
    # What follows in another call sees them again.
    logits = [e.append(c, rows, [[9]] * len(rows)) for e, c in zip(tiny.both, (wanted, ours), strict=True)]
    assert distance(logits[1], logits[0]) < NEAR


def test_logits_of_unseen_tokens(tiny: Pair) -> None:
    for tokens in ([[11, 40, 13]], [[11, 40]]):
        logits = []
        for model in (tiny.eager_model, tiny.graph_model):
            cache, *_ = started(model, driving_sample(), ROOM)
            logits.append(model.engine.append(cache, [0], tokens, 40))
        assert distance(logits[1], logits[0]) < NEAR


def test_flow_over_the_own_cache(pair: Pair) -> None:
    caches = after(pair, SEQUENCES)
    for reads, steps in (([0], 1), ([0, 0], 2), ([2, 0, 0, 1], 2)):
        noise = draw_noise(len(reads), WAYPOINTS, 1)
        handed = [hand_off(cache, SEQUENCES, reads, 33, WAYPOINTS) for cache in caches]
        wanted, ours = (e.denoise(noise, steps, h) for e, h in zip(pair.both, handed, strict=True))
        assert ours.dtype == torch.float32
        assert distance(ours, wanted) < (NEAR if steps == 1 else FLOW)
        fields = [e.velocity_field(h) for e, h in zip(pair.both, handed, strict=True)]
        wanted, ours = (field(noise, torch.tensor(0.3)) for field in fields)
        assert distance(ours, wanted) < NEAR


@pytest.mark.parametrize("closing", [None, 13, 21])
def test_hand_off_that_ends_before_what_was_said(tiny: Pair, closing: int | None) -> None:
    """The expert reads up to the closing token, although more is in the cache."""
    noise = draw_noise(3, WAYPOINTS, 1)
    wanted, ours = (
        engine.denoise(noise, 2, hand_off(cache, SEQUENCES, [0, 1, 2], closing, WAYPOINTS))
        for engine, cache in zip(tiny.both, after(tiny, SEQUENCES), strict=True)
    )
    assert distance(ours, wanted) < NEAR


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("guided", [False, True])
def test_flow_over_a_recorded_cache(tiny: Pair, shared: bool, guided: bool) -> None:
    text, generator = tiny.eager_model.config.language, torch.Generator().manual_seed(0)
    rows, length, k = (1, 37, 3) if shared else (3, 37, 3)
    shape = (2, text.num_layers, rows, text.num_kv_heads, length, text.head_dim)

    def recorded(seen: float) -> tuple[torch.Tensor, ...]:
        keys, values = torch.randn(shape, generator=generator)
        attended = torch.rand(k, length + WAYPOINTS, generator=generator) < seen
        attended[:, 0] = True
        positions = torch.arange(WAYPOINTS) + torch.tensor([40, 41, 45])[:, None]
        return keys, values, attended, positions.expand(3, -1, -1)

    cases = [recorded(0.8), recorded(0.5)]
    noise = draw_noise(k, WAYPOINTS, 2)
    actions = []
    for engine in tiny.both:
        handed = [
            hand_off_from_arrays(
                text, *case, [0] * k if shared else [2, 0, 1], torch.device("cpu"), torch.float32
            )
            for case in cases
        ]
        unguided = handed[1] if guided else None
        actions.append(engine.denoise(noise, 3, handed[0], unguided, 1.7))
    assert distance(actions[1], actions[0]) < NEAR


@pytest.mark.parametrize(
    ("sequences", "sampling"), [(1, greedy(6)), (3, Sampling(0.9, 0.95, 30, 6))], ids=["greedy", "sampled"]
)
def test_drive_from_logits_to_actions(pair: Pair, sequences: int, sampling: Sampling) -> None:
    noise, reads = draw_noise(3, WAYPOINTS, 4), [0, 0, 0] if sequences == 1 else [0, 1, 2]
    rule = pair.eager_model.stop_rule(pair.eager_model.config.family.tasks[0])
    found = []
    for model in (pair.eager_model, pair.graph_model):
        cache, logits, *_ = started(model, driving_sample(), ROOM)
        laps: list[str] = []
        uniforms = draw_uniforms(sequences, sampling.max_generate_length, 5)
        rollout, action = model.engine.drive(
            cache, logits, sampling, rule, uniforms, reads, noise, 2, laps.append
        )
        assert laps == ["decode", "expert"]
        found.append((rollout, action, cache))
    (wanted, action, eager_cache), (ours, our_action, cache) = found
    assert ours == wanted
    assert distance(our_action, action) < FLOW
    same_caches(cache, eager_cache, range(sequences))
    # The cache is described well enough to make the same hand-off of it afterwards.
    handed = hand_off(cache, ours.tokens, reads, rule.closing, WAYPOINTS)
    assert distance(pair.graphs.denoise(noise, 2, handed), our_action) < FLOW
    assert bool(torch.isfinite(keys_and_values(cache, 0)).all())


def test_the_unguided_prompt_takes_what_it_shares(tiny: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, handed = driving_sample(navigation="Turn left in 40m"), []
    prompts: list[int] = []
    prefill = type(tiny.graphs).prefill
    monkeypatch.setattr(
        type(tiny.graphs), "prefill", lambda *given: prompts.append(len(given[1])) or prefill(*given)
    )
    for model in (tiny.eager_model, tiny.graph_model):
        cache, _, prompt, features = started(model, sample, ROOM)
        images = prepare_images(sample, model.config, torch.device("cpu"))
        guided = (prompt, cache)
        plain, without = model.unguided_hand_off(sample, images, features, [[11, 12, 13]], [0, 0], guided)
        handed.append(without)
    assert prompts == [len(prompt)]  # the fast engine ran the guided one in full, and no other
    assert len(plain) < len(prompt)
    same_caches(handed[1].cache, handed[0].cache, [0])
    assert torch.equal(handed[1].position_ids, handed[0].position_ids)

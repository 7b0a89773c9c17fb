# SPDX-License-Identifier: Apache-2.0
"""The eager engine's cache: whatever the order of the work, a token sees its own past and nothing else."""

from __future__ import annotations

import pytest
import torch
from situations import driving_sample

from alpamayo_rt import Model
from alpamayo_rt.engine.hand_off import hand_off
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt, build_prompt, prepare_images

SEQUENCES = [[11, 12, 13, 14], [21, 22], [31, 32, 33]]


@pytest.fixture(scope="module")
def start(model: Model) -> tuple[Prompt, VisionFeatures, Images]:
    sample = driving_sample()
    images = prepare_images(sample, model.config, torch.device("cpu"))
    prompt = build_prompt(sample, images, model.config, model.tokenizer)
    return prompt, model.engine.encode_images(images), images


Start = tuple[Prompt, VisionFeatures, Images]


def own(cache: KvCache, sequence: int) -> torch.Tensor:
    return cache.keys[:, :, cache.sequence_slots(sequence)]


def test_sequences_in_one_cache_equal_sequences_run_alone(model: Model, start: Start) -> None:
    engine, (prompt, features, _) = model.engine, start
    cache, _ = engine.prefill(prompt, features, 20)
    together = engine.append(cache, [0, 1, 2], SEQUENCES)
    for i, tokens in enumerate(SEQUENCES):
        alone, _ = engine.prefill(prompt, features, 20)
        logits = engine.append(alone, [0], [tokens])
        assert torch.allclose(together[i], logits[0], atol=1e-4)
        assert torch.allclose(own(cache, i), own(alone, 0), atol=1e-4)


def test_tokens_one_by_one_and_interleaved_equal_all_at_once(model: Model, start: Start) -> None:
    engine, (prompt, features, _) = model.engine, start
    at_once, _ = engine.prefill(prompt, features, 20)
    expected = engine.append(at_once, [0, 1, 2], SEQUENCES)
    stepwise, _ = engine.prefill(prompt, features, 20)
    last = torch.zeros_like(expected)
    for step in range(4):
        going = [s for s in (2, 0, 1) if step < len(SEQUENCES[s])]
        rows = engine.append(stepwise, going, [[SEQUENCES[s][step]] for s in going])
        last[going] = rows
    assert torch.allclose(last, expected, atol=1e-4)
    for sequence in range(3):
        assert torch.allclose(own(stepwise, sequence), own(at_once, sequence), atol=1e-4)


def test_prompt_in_two_pieces_equals_prefill(model: Model, start: Start) -> None:
    """Text that is appended gets the positions and the causal mask that prefill would have given it."""
    engine, (prompt, features, _) = model.engine, start
    whole, logits = engine.prefill(prompt, features, 5)
    cut = len(prompt) - 7  # behind the last image
    assert int(prompt.image_slots.max()) < cut
    head = Prompt(
        "", prompt.text_ids, prompt.ids[:cut], prompt.positions[:, :cut], prompt.rope_delta, prompt.image_slots
    )
    parts, _ = engine.prefill(head, features, 12)
    rest = engine.append(parts, [0], [prompt.ids[cut:].tolist()])
    assert torch.allclose(rest[0], logits, atol=1e-4)
    assert torch.allclose(own(parts, 0), whole.keys[:, :, : len(prompt)], atol=1e-4)


def test_unseen_token_is_hidden_from_other_tokens_and_stays_for_the_expert(model: Model, start: Start) -> None:
    engine, (prompt, features, _) = model.engine, start
    after = []
    for hidden in (40, 41):
        cache, _ = engine.prefill(prompt, features, 10)
        after.append(engine.append(cache, [0], [[11, hidden, 13]], unseen=hidden))
        assert bool(hand_off(cache, [[11, hidden, 13]], [0], None, 4).attended.all())
    assert torch.allclose(after[0], after[1], atol=1e-5)
    cache, _ = engine.prefill(prompt, features, 10)
    assert not torch.allclose(engine.append(cache, [0], [[11, 40, 13]]), after[0], atol=1e-3)


def test_velocity_of_a_candidate_depends_on_its_own_noise_and_sequence_alone(
    model: Model, start: Start
) -> None:
    engine, (prompt, features, _) = model.engine, start
    waypoints = model.config.action_space.n_waypoints
    reads, time = [0, 2, 2], torch.tensor(0.3)
    x = torch.randn(3, waypoints, 2, generator=torch.Generator().manual_seed(0))
    cache, _ = engine.prefill(prompt, features, 20 + 3 * waypoints)
    engine.append(cache, [0, 1, 2], SEQUENCES)
    together = engine.velocity_field(hand_off(cache, SEQUENCES, reads, None, waypoints))(x, time)
    for k, sequence in enumerate(reads):
        alone, _ = engine.prefill(prompt, features, 20 + waypoints)
        engine.append(alone, [0], [SEQUENCES[sequence]])
        velocity = engine.velocity_field(hand_off(alone, [SEQUENCES[sequence]], [0], None, waypoints))
        assert torch.allclose(velocity(x[[k]], time)[0], together[k], atol=1e-4)


def test_velocity_field_leaves_the_language_models_cache_as_it_was(model: Model, start: Start) -> None:
    engine, (prompt, features, _) = model.engine, start
    waypoints = model.config.action_space.n_waypoints
    cache, _ = engine.prefill(prompt, features, 4 + waypoints)
    engine.append(cache, [0], [[11]])
    before, length = cache.keys[:, :, : cache.length].clone(), cache.length
    field = engine.velocity_field(hand_off(cache, [[11]], [0], None, waypoints))
    x = torch.ones(1, waypoints, 2)
    first = field(x, torch.tensor(0.0))
    assert cache.length == length
    assert torch.equal(cache.keys[:, :, :length], before)
    field(x * 2, torch.tensor(0.5))
    assert torch.equal(field(x, torch.tensor(0.0)), first)


def test_a_later_waypoint_is_seen_by_an_earlier_one(model: Model, start: Start) -> None:
    engine, (prompt, features, _) = model.engine, start
    waypoints = model.config.action_space.n_waypoints
    cache, _ = engine.prefill(prompt, features, 4 + waypoints)
    field = engine.velocity_field(hand_off(cache, [[]], [0], None, waypoints))
    x = torch.zeros(1, waypoints, 2)
    changed = x.clone()
    changed[0, -1] = 1.0
    difference = field(changed, torch.tensor(0.2)) - field(x, torch.tensor(0.2))
    assert float(difference[0, 0].abs().max()) > 1e-5

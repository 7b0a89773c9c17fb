# SPDX-License-Identifier: Apache-2.0
"""A prompt that begins as another one gives the same cache and logits, shared or not."""

from __future__ import annotations

import pytest
import torch
from situations import random_frames, straight_history

from alpamayo_rt import Model, Sample
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt, prepare_images, shared_length

ROOM = 200
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(params=["model_1_5", "model_2_super"])
def model(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue(request.param)


def prompts(model: Model) -> tuple[Sample, Images, Prompt, Prompt]:
    xyz, rot = straight_history()
    guided = Sample(random_frames(2, 1), (1, 6), xyz, rot, navigation="Turn left in 40m")
    images = prepare_images(guided, model.config, torch.device("cpu"))
    plain = model.prompt_of(guided.replaced(navigation=None), images)
    return guided, images, model.prompt_of(guided, images), plain


def prefilled(model: Model, prompt: Prompt, images: Images) -> tuple[KvCache, torch.Tensor, VisionFeatures]:
    features = model.engine.encode_images(images)
    return *model.engine.prefill(prompt, features, ROOM), features


def test_shared_slots_are_copied_and_the_rest_computed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    _, images, guided, plain = prompts(model)
    shared, _, features = prefilled(model, guided, images)
    alone, logits = model.engine.prefill(plain, features, ROOM)
    model.engine.append(shared, [0], [[5, 6]])  # what was written since does not matter
    before = shared.keys.clone(), shared.length

    def never(*args: object) -> None:
        raise AssertionError("the shared prompt was run again")

    monkeypatch.setattr(type(model.engine), "prefill", never)
    length = shared_length(guided, plain)
    ours, ours_logits = model.engine.prefill_from(shared, length, plain, features, ROOM)
    torch.testing.assert_close(ours_logits, logits, **CLOSE)
    for name in ("keys", "values"):
        mine, theirs = getattr(ours, name), getattr(alone, name)
        torch.testing.assert_close(mine[:, :, : len(plain)], theirs[:, :, : len(plain)], **CLOSE)
    assert torch.equal(ours.keys[:, :, :length], shared.keys[:, :, :length])
    for name in ("length", "prompt_length", "rope_delta"):
        assert getattr(ours, name) == getattr(alone, name)
    assert torch.equal(ours.owner, alone.owner)
    assert torch.equal(ours.order, alone.order)
    assert torch.equal(shared.keys, before[0])
    assert shared.length == before[1]
    # The copy is the new cache's own: writing to it leaves the other alone.
    model.engine.append(ours, [0], [[5, 6, 7]])
    assert torch.equal(shared.keys, before[0])


@pytest.mark.parametrize("length", [0, 1, 10])
def test_nothing_is_shared_where_images_follow(length: int, model: Model) -> None:
    _, images, guided, plain = prompts(model)
    shared, _, features = prefilled(model, guided, images)
    alone, logits = model.engine.prefill(plain, features, ROOM)
    ours, ours_logits = model.engine.prefill_from(shared, length, plain, features, ROOM)
    assert torch.equal(ours_logits, logits)
    assert torch.equal(ours.keys, alone.keys)


def test_the_same_prompt_still_gives_its_logits(model: Model) -> None:
    _, images, guided, _ = prompts(model)
    shared, logits, features = prefilled(model, guided, images)
    _, again = model.engine.prefill_from(shared, len(guided), guided, features, ROOM)
    torch.testing.assert_close(again, logits, **CLOSE)


def test_the_unguided_branch_is_the_same_shared_or_not(model: Model) -> None:
    sample, images, guided, _ = prompts(model)
    shared, _, features = prefilled(model, guided, images)
    tokens, reads = [[5, 6, 7], [8]], [0, 1]
    one = model.unguided_hand_off(sample, images, features, tokens, reads)[1]
    two = model.unguided_hand_off(sample, images, features, tokens, reads, (guided, shared))[1]
    assert torch.equal(one.attended, two.attended)
    assert torch.equal(one.position_ids, two.position_ids)
    noise = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(0))
    actions = [model.engine.denoise(noise, 2, handed) for handed in (one, two)]
    torch.testing.assert_close(actions[0], actions[1], **CLOSE)

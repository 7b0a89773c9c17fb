# SPDX-License-Identifier: Apache-2.0
"""Vision in the fast engine: parts side by side, patches of any floating type, results that are lent."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from pairs import NEAR, Pair, distance
from situations import driving_sample

from alpamayo_rt.engine.graphs.beside import Beside
from alpamayo_rt.engine.graphs.frames import FrameFeatures
from alpamayo_rt.engine.graphs.vision import division
from alpamayo_rt.prompt.prompt import Images, prepare_images

CPU = torch.device("cpu")


@given(images=st.integers(1, 200))
def test_parts_are_all_images_once_in_their_order(images: int) -> None:
    parts = division(images)
    assert [n for first, end in parts for n in range(first, end)] == list(range(images))
    assert all(first < end for first, end in parts)


def test_many_images_in_parts_are_what_the_eager_engine_makes(tiny: Pair) -> None:
    images = prepare_images(driving_sample((0, 1), 5), tiny.eager_model.config, CPU)
    assert len(division(len(images.grid))) > 1
    ours, wanted = tiny.graphs.encode_images(images), tiny.eager.encode_images(images)
    for a, b in zip((ours.embeds, *ours.deepstack), (wanted.embeds, *wanted.deepstack), strict=True):
        assert distance(a, b) < NEAR


def test_work_beside_other_work_is_done_in_its_order_on_the_cpu() -> None:
    done: list[int] = []
    Beside(CPU).run([lambda n=n: done.append(n) for n in range(3)])  # type: ignore[misc]
    assert done == [0, 1, 2]


def test_patches_may_have_any_floating_type(tiny: Pair) -> None:
    config = tiny.eager_model.config
    exact = prepare_images(driving_sample((0,), 1), config, CPU)
    half = prepare_images(driving_sample((0,), 1), config, CPU, torch.bfloat16)
    assert half.pixel_values.dtype == torch.bfloat16
    assert torch.equal(half.pixel_values, exact.pixel_values.bfloat16())
    wanted = tiny.graphs.encode_images(Images(half.pixel_values.float(), half.grid)).embeds
    assert torch.equal(tiny.graphs.encode_images(half).embeds, wanted)
    assert torch.equal(tiny.graphs.encode_images(half, ["a"]).embeds, wanted)


def test_what_is_lent_is_what_is_given(tiny: Pair) -> None:
    images = prepare_images(driving_sample((0, 1), 1), tiny.eager_model.config, CPU)
    for engine in tiny.both:
        lent, own = engine.encode_for_prefill(images), engine.encode_images(images)
        assert torch.equal(lent.embeds, own.embeds)
        # Of one's own: the next images leave it alone.
        before = own.embeds.clone()
        engine.encode_for_prefill(Images(images.pixel_values.flip(0), images.grid))
        assert torch.equal(own.embeds, before)


def test_features_of_frames_are_copied_as_they_are_put_together() -> None:
    frames = [torch.randn(3, tokens, 8) for tokens in (4, 2, 5)]
    features = FrameFeatures(frames)
    target = torch.zeros(3, 20, 8)
    features.copy_to(target[:, :11])
    assert torch.equal(target[:, :11], torch.cat(frames, 1))
    assert not target[:, 11:].any()
    assert torch.equal(torch.stack([features.embeds, *features.deepstack]), torch.cat(frames, 1))

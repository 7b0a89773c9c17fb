# SPDX-License-Identifier: Apache-2.0
"""Frames seen before: their features are those first computed, to the bit, and no more are kept than said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pairs import NEAR, Pair, distance
from situations import driving_sample

from alpamayo_rt.engine.graphs.frames import FrameCache
from alpamayo_rt.engine.graphs.vision import VisionRun
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, prepare_images


@pytest.fixture(autouse=True)
def forgotten(tiny: Pair) -> None:
    tiny.graphs.frames.clear()


@pytest.fixture(scope="module")
def window(tiny: Pair) -> Images:
    """Eight different images."""
    return prepare_images(driving_sample((0, 1), 4), tiny.eager_model.config, torch.device("cpu"))


def some(images: Images, numbers: list[int]) -> Images:
    patches = images.pixel_values.unflatten(0, (len(images.grid), -1))
    return Images(patches[numbers].flatten(0, 1), images.grid[numbers])


def rows(features: VisionFeatures, images: int) -> torch.Tensor:
    """(images, taps, tokens, out)"""
    stacked = torch.stack([features.embeds, *features.deepstack])
    return stacked.unflatten(1, (images, -1)).transpose(0, 1)


def test_reused_features_are_bit_equal_and_only_new_frames_are_encoded(
    tiny: Pair, window: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, encoded = tiny.graphs, []
    run = VisionRun.__call__

    def counting(self: VisionRun) -> None:
        encoded.append(self.images)
        run(self)

    monkeypatch.setattr(VisionRun, "__call__", counting)
    first = rows(engine.encode_images(some(window, [0, 1, 2, 3, 4, 5]), "abcdef"), 6)
    second = rows(engine.encode_images(some(window, [2, 3, 4, 5, 6, 7]), "cdefgh"), 6)
    assert encoded == [6, 2]
    assert torch.equal(second[:4], first[2:])
    whole = engine.encode_images(some(window, [2, 3, 4, 5, 6, 7]))
    assert encoded == [6, 2, 6]
    assert distance(second, rows(whole, 6)) < NEAR
    wanted = tiny.eager.encode_images(some(window, [2, 3, 4, 5, 6, 7]))
    assert distance(second, rows(wanted, 6)) < NEAR
    # Nothing new: nothing runs.
    third = rows(engine.encode_images(some(window, [7, 0]), "ha"), 2)
    assert torch.equal(third, torch.stack([second[5], first[0]]))
    assert len(encoded) == 3


def test_later_requests_do_not_change_what_was_kept(tiny: Pair, window: Images) -> None:
    engine = tiny.graphs
    first = rows(engine.encode_images(some(window, [0, 1]), "ab"), 2).clone()
    engine.encode_images(some(window, [4, 5]), "ef")  # the same graph, other pictures
    engine.encode_images(some(window, [6, 7]))
    assert torch.equal(rows(engine.encode_images(some(window, [1, 0]), "ba"), 2), first[[1, 0]])


def test_features_are_the_callers_own(tiny: Pair, window: Images) -> None:
    """The next request of the same size runs in the same buffers."""
    given = [tiny.graphs.encode_images(some(window, numbers)) for numbers in ([0, 1], [2, 3])]
    for numbers, features in zip(([0, 1], [2, 3]), given, strict=True):
        assert distance(rows(features, 2), rows(tiny.eager.encode_images(some(window, numbers)), 2)) < NEAR


def test_the_same_frame_twice_in_a_request(tiny: Pair, window: Images) -> None:
    engine = tiny.graphs
    made = rows(engine.encode_images(some(window, [0, 1, 0]), "aba"), 3)
    assert torch.equal(made[0], made[2])
    assert len(engine.frames) == 2
    assert distance(made, rows(tiny.eager.encode_images(some(window, [0, 1, 0])), 3)) < NEAR


def test_the_same_id_in_another_size_is_another_frame(tiny: Pair, window: Images) -> None:
    engine, one = tiny.graphs, some(window, [0])
    turned = Images(one.pixel_values, one.grid[:, [0, 2, 1]])
    both = Images(torch.cat([one.pixel_values] * 2), torch.cat([one.grid, turned.grid]))
    made = rows(engine.encode_images(both, "aa"), 2)
    assert len(engine.frames) == 2
    for index, alone in enumerate((one, turned)):
        assert distance(made[index], rows(tiny.eager.encode_images(alone), 1)[0]) < NEAR


def test_no_more_are_kept_than_was_said(tiny: Pair, window: Images) -> None:
    cache, encoded = FrameCache(most=3), []

    def encode(patches: Sequence[torch.Tensor], height: int, width: int) -> VisionFeatures:
        encoded.append(len(patches))
        return tiny.eager.network.vision(torch.stack(list(patches)), height, width)

    def ask(numbers: list[int]) -> VisionFeatures:
        images = some(window, numbers)
        with torch.inference_mode():
            return cache.encode(images, images.pixel_values, numbers, encode)

    made = ask([0, 1, 2, 3, 4])  # more than are kept
    assert len(cache) == 3
    assert distance(rows(made, 5), rows(tiny.eager.encode_images(some(window, [0, 1, 2, 3, 4])), 5)) < NEAR
    ask([2])  # used again, so that 3 goes first
    ask([5])
    encoded.clear()
    ask([2, 4, 5])
    assert encoded == []
    ask([3])
    assert encoded == [1]
    # What is kept of a frame does not keep the frames alive that were encoded with it.
    (kept, *_) = cache._kept.values()
    assert kept.untyped_storage().nbytes() == kept.nbytes
    cache.clear()
    assert len(cache) == 0

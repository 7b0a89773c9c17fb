# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from situations import random_frames

from alpamayo_rt import Model
from alpamayo_rt.config import VisionConfig
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.model.vision import VisionTower
from alpamayo_rt.prompt.images import preprocess
from alpamayo_rt.prompt.prompt import Images

blocks = st.integers(1, 5)


def tower(merge: int = 2, side: int = 6, hidden: int = 8, taps: tuple[int, ...] = (0, 1)) -> VisionTower:
    torch.manual_seed(0)
    return VisionTower(VisionConfig(2, hidden, 2, 12, 10, side * side, taps, merge_size=merge)).eval()


def in_blocks(rows: int, columns: int, merge: int) -> list[tuple[int, int]]:
    return [
        (r * merge + i, c * merge + j)
        for r in range(rows // merge)
        for c in range(columns // merge)
        for i in range(merge)
        for j in range(merge)
    ]


@given(blocks, blocks, st.integers(1, 3))
def test_block_order_is_row_major_over_blocks_and_inside(rows: int, columns: int, merge: int) -> None:
    rows, columns = rows * merge, columns * merge
    grid = torch.arange(rows * columns).reshape(rows, columns)
    expected = [int(grid[at]) for at in in_blocks(rows, columns, merge)]
    assert tower(merge)._block_order(grid).tolist() == expected


@given(blocks, blocks)
def test_position_embedding_equals_naive_bilinear_interpolation(rows: int, columns: int) -> None:
    vision, side = tower(), 6
    rows, columns = 2 * rows, 2 * columns
    table = vision.pos_embed.weight.detach().double().reshape(side, side, -1)
    expected = []
    for row, column in in_blocks(rows, columns, 2):
        y, x = row * (side - 1) / (rows - 1), column * (side - 1) / (columns - 1)
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, side - 1), min(left + 1, side - 1)
        upper = table[top, left] * (1 - (x - left)) + table[top, right] * (x - left)
        lower = table[bottom, left] * (1 - (x - left)) + table[bottom, right] * (x - left)
        expected.append(upper * (1 - (y - top)) + lower * (y - top))
    ours = vision._position_embedding(rows, columns).double()
    assert torch.allclose(ours, torch.stack(expected), atol=2e-5)


def test_position_embedding_of_the_tables_own_size_is_the_table() -> None:
    vision = tower()
    table = vision.pos_embed.weight.reshape(6, 6, -1)
    assert torch.allclose(vision._position_embedding(6, 6), vision._block_order(table), atol=1e-6)


@given(blocks, blocks)
def test_rotary_angles_are_row_angles_then_column_angles_twice(rows: int, columns: int) -> None:
    vision = tower(hidden=16)  # head dim 8: two row and two column frequencies
    rows, columns = 2 * rows, 2 * columns
    cos, sin = vision._rotary(rows, columns)
    for n, (row, column) in enumerate(in_blocks(rows, columns, 2)):
        angles = [at * 10_000 ** (-2 * j / 4) for at in (row, column) for j in range(2)] * 2
        assert cos[n].tolist() == pytest.approx([math.cos(a) for a in angles], abs=1e-6)
        assert sin[n].tolist() == pytest.approx([math.sin(a) for a in angles], abs=1e-6)


def test_patch_embedding_equals_the_convolution_it_is_stored_as() -> None:
    vision = tower()
    patches = torch.randn(5, 1536)
    volume = patches.reshape(5, 3, 2, 16, 16)
    assert torch.allclose(vision.patch_embed(patches), vision.patch_embed.proj(volume).flatten(1), atol=1e-5)


def test_images_do_not_see_each_other() -> None:
    vision = tower()
    patches = torch.randn(3, 16, 1536)
    together = vision(patches, 4, 4)
    alone = [vision(patches[[i]], 4, 4) for i in range(3)]
    assert torch.allclose(together.embeds, torch.cat([f.embeds for f in alone]), atol=1e-5)
    for tap in range(2):
        assert torch.allclose(together.deepstack[tap], torch.cat([f.deepstack[tap] for f in alone]), atol=1e-5)


def test_deepstack_features_stand_in_the_order_of_the_config() -> None:
    forward, backward = tower(taps=(0, 1)), tower(taps=(1, 0))
    backward.load_state_dict(
        {
            name.replace("list.0", "list.x").replace("list.1", "list.0").replace("list.x", "list.1"): weight
            for name, weight in forward.state_dict().items()
        }
    )
    patches = torch.randn(1, 16, 1536)
    ours, theirs = forward(patches, 4, 4).deepstack, backward(patches, 4, 4).deepstack
    assert torch.equal(ours[0], theirs[1])
    assert torch.equal(ours[1], theirs[0])
    assert not torch.allclose(ours[0], ours[1])


def test_images_of_different_sizes_in_one_request_equal_those_encoded_alone(model_1_5: Model) -> None:
    engine = model_1_5.engine
    assert isinstance(engine, EagerEngine)
    sizes = [(64, 96), (96, 64), (64, 96), (96, 160)]
    alone = []
    for seed, (height, width) in enumerate(sizes):
        pixels, grid = preprocess(random_frames(1, 1, height, width, seed)[0], 6144, 16384)
        alone.append(Images(pixels, grid))
    mixed = Images(torch.cat([i.pixel_values for i in alone]), torch.cat([i.grid for i in alone]))
    assert len({tuple(row) for row in mixed.grid.tolist()}) == 3
    together = engine.encode_images(mixed)
    each = [engine.encode_images(i) for i in alone]
    assert torch.allclose(together.embeds, torch.cat([f.embeds for f in each]), atol=1e-5)
    for tap in range(len(together.deepstack)):
        expected = torch.cat([f.deepstack[tap] for f in each])
        assert torch.allclose(together.deepstack[tap], expected, atol=1e-5)

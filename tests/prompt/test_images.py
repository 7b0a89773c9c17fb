# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alpamayo_rt import InputError
from alpamayo_rt.prompt.images import patchify, preprocess, resize, resize_integer, smart_resize

RELEASED = (163_840, 196_608)
sides = st.integers(1, 4000)
seeds = st.integers(0, 2**32 - 1)


@given(sides, sides)
@example(16, 16)
def test_smart_resize_gives_multiples_and_respects_the_area(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(InputError, match=f"{height}×{width}"):
            smart_resize(height, width, *RELEASED)
        return
    rows, columns = smart_resize(height, width, *RELEASED)
    assert rows % 32 == columns % 32 == 0
    assert rows >= 32
    assert columns >= 32
    nearest = round(height / 32) * round(width / 32) * 1024
    if nearest > RELEASED[1]:  # shrunk; a side of a single multiple cannot shrink further
        assert rows * columns <= RELEASED[1] or 32 in (rows, columns)
    elif nearest >= RELEASED[0]:
        assert rows * columns == nearest
    else:  # grown, no further than to the next multiple of each side
        grow = math.sqrt(RELEASED[0] / (height * width))
        assert rows * columns >= RELEASED[0]
        assert rows - 32 < height * grow
        assert columns - 32 < width * grow


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.49), st.floats(-0.49, 0))
def test_smart_resize_takes_the_nearest_multiple_where_its_area_is_allowed(
    rows: int, columns: int, up: float, down: float
) -> None:
    height, width = max(int(32 * (rows + up)), 1), max(math.ceil(32 * (columns + down)), 1)
    if max(height, width) > 200 * min(height, width):
        return
    area = rows * columns * 1024
    assert smart_resize(height, width, area, area) == (32 * rows, 32 * columns)


@given(sides, sides)
def test_smart_resize_is_symmetric(height: int, width: int) -> None:
    if max(height, width) <= 200 * min(height, width):
        assert smart_resize(height, width, *RELEASED) == smart_resize(width, height, *RELEASED)[::-1]


def test_smart_resize_rounds_half_to_even() -> None:
    # 80 / 32 = 2.5 and 112 / 32 = 3.5
    assert smart_resize(80, 112, 1, 10**9) == (64, 128)


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((1080, 1920), RELEASED, (320, 576)),
        ((320, 576), RELEASED, (320, 576)),
        ((96, 160), (6144, 16384), (96, 160)),
        ((1080, 1920), (6144, 16384), (96, 160)),
        ((10, 10), RELEASED, (416, 416)),
    ],
)
def test_smart_resize_of_known_sizes(
    size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert smart_resize(*size, *limits) == expected


@settings(max_examples=40)
@given(st.integers(2, 150), st.integers(2, 150), st.integers(2, 120), st.integers(2, 120), seeds)
@example(108, 192, 32, 64, 0)
@example(20, 30, 96, 160, 0)
@example(64, 96, 64, 96, 0)
def test_integer_resize_equals_torch_bit_for_bit(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)
    if seed % 2:  # only black and white: the overshoot of the cubic has to be clamped
        images = (images > 127).to(torch.uint8) * 255
    expected = torch.nn.functional.interpolate(
        images, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False
    )
    assert torch.equal(resize_integer(images, rows, columns), expected)
    assert torch.equal(resize(images, rows, columns), expected)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))
def test_patchify_equals_a_naive_loop(block_rows: int, block_columns: int, merge: int, temporal: int) -> None:
    patch = 4
    height, width = block_rows * merge * patch, block_columns * merge * patch
    images = torch.arange(2 * 3 * height * width, dtype=torch.float32).reshape(2, 3, height, width)
    expected = []
    for image in images:
        for block in range(block_rows * block_columns):
            for inside in range(merge * merge):
                row = (block // block_columns * merge + inside // merge) * patch
                column = (block % block_columns * merge + inside % merge) * patch
                vector = []
                for channel in range(3):
                    for _ in range(temporal):
                        for y in range(patch):
                            vector += image[channel, row + y, column : column + patch].tolist()
                expected.append(vector)
    ours = patchify(images, patch, merge, temporal)
    assert torch.equal(ours.flatten(0, 1), torch.tensor(expected))


def test_preprocess_normalizes_and_describes_every_image() -> None:
    frames = torch.zeros(3, 3, 64, 96, dtype=torch.uint8)
    frames[1] = 255
    pixels, grid = preprocess(frames, 6144, 16384)
    assert grid.tolist() == [[1, 4, 6]] * 3
    first, second, third = pixels.split(24)
    assert bool((first == -1).all())
    assert bool((second == 1).all())
    assert torch.equal(third, first)
    assert pixels.shape[1] == 3 * 2 * 16 * 16


@given(st.integers(20, 90), st.integers(20, 90), seeds)
def test_resize_in_float_is_the_same_resize_without_its_rounding(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Far enough from 0 and 255 that nothing is clamped on the way.
    frames = torch.randint(64, 192, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    limits = 64 * 64, 64 * 96
    exact, grid = preprocess(frames, *limits, in_float=True)
    rounded, same = preprocess(frames, *limits)
    assert torch.equal(grid, same)
    # A level is 2/255, and two passes round.
    assert float((exact - rounded).abs().max()) <= 4 / 255
    alone = torch.cat([preprocess(frame[None], *limits, in_float=True)[0] for frame in frames])
    assert torch.equal(exact, alone)


def test_resize_in_float_overshoots_at_an_edge() -> None:
    frames = torch.zeros(1, 3, 128, 192, dtype=torch.uint8)
    frames[..., 100:] = 255
    pixels, _ = preprocess(frames, 64 * 64, 64 * 96, in_float=True)
    assert float(pixels.min()) < -1.01
    assert float(pixels.max()) > 1.01
    flat, _ = preprocess(torch.full((1, 3, 128, 192), 51, dtype=torch.uint8), 64 * 64, 64 * 96, in_float=True)
    torch.testing.assert_close(flat, torch.full_like(flat, 51 / 127.5 - 1))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_patches_and_is_not_waited_for() -> None:
    frames = torch.randint(0, 256, (2, 3, 1080, 1920), dtype=torch.uint8).pin_memory()
    wanted, _ = preprocess(frames, *RELEASED)
    try:
        for mode in ("default", "error"):  # the weights of the resize travel the first time
            torch.cuda.set_sync_debug_mode(mode)
            found, _ = preprocess(frames.to("cuda", non_blocking=True), *RELEASED)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # Equal bytes; the division that follows may round otherwise.
    assert torch.allclose(found.cpu(), wanted, rtol=0, atol=1e-6)

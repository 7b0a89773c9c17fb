# SPDX-License-Identifier: Apache-2.0
"""What the cameras show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alpamayo_rt.demo.arrays import CAUSES
from alpamayo_rt.demo.simulate import cause_of_index
from alpamayo_rt.demo.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(0, "test")


def clips_of(cause: str, n: int) -> list[int]:
    found = [i for i in range(400) if cause_of_index("test", 0, i) == cause]
    return found[:n]


def newest(world: World, index: int) -> torch.Tensor:
    """(4, 3, 128, 224) of the clip's own window."""
    return world.sample(index)[0].frames[:, -1]


def lit(image: torch.Tensor, colour: str) -> int:
    """Pixels that shine in one colour."""
    r, g, b = (image[:, i].int() for i in range(3))
    if colour == "red":
        return int(((r > 170) & (g < 90) & (b < 90)).sum())
    return int(((g > 150) & (r < 110) & (b < 160)).sum())


def test_frames_are_those_of_a_sample(world: World) -> None:
    sample, truth = world.sample(0)
    assert sample.frames.shape == (4, 4, 3, 128, 224)
    assert sample.frames.dtype == torch.uint8
    assert sample.camera_indices == (0, 1, 2, 6)
    assert truth["cause"] in CAUSES


@pytest.mark.parametrize(("colour", "cause"), [("red", "red_light"), ("green", "green_light")])
def test_the_lamp_that_matters_shines(world: World, colour: str, cause: str) -> None:
    for index in clips_of(cause, 3):
        assert lit(newest(world, index), colour) >= 4, index


def test_red_and_green_differ_in_the_picture(world: World) -> None:
    for index in clips_of("red_light", 2):
        assert lit(newest(world, index), "red") > lit(newest(world, index), "green")


def test_a_batch_draws_what_single_windows_draw(world: World) -> None:
    indices = [1, 12]
    batch = world.batch(indices)
    for row, index in enumerate(indices):
        sample, _ = world.sample(index)
        assert torch.equal(batch.frames[row], sample.frames)
        assert np.allclose(batch.history_xyz[row], sample.history_xyz)


def test_images_move_with_the_clip(world: World) -> None:
    index = clips_of("free_road", 1)[0]
    frames = world.sample(index)[0].frames.float()
    assert (frames[:, 0] - frames[:, -1]).abs().mean() > 1
    assert frames.std() > 20

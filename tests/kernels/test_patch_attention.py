# SPDX-License-Identifier: Apache-2.0
"""Attention among patches: the twin against plain float64 loops, the kernels against the twin in float64."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import run_again_in_the_interpreter

from alpamayo_rt.kernels.attention.angles import PatchAngles
from alpamayo_rt.kernels.attention.patches import (
    PatchConfiguration,
    patch_attention,
    patch_attention_twin,
    patch_configuration,
)
from alpamayo_rt.model.rotary import rotate

DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]
# Triton's interpreter cuts bfloat16 off where a GPU rounds it.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BOUND = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 2.5e-2 if INTERPRETED else 9e-3}
"""Relative L2 error; of the short types about the rounding of queries, keys, weights and output."""
SMALL = PatchConfiguration(32, 32, 4, 2, None, turned=8)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def inputs(
    images: int, patches: int, heads: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The joint product, cosines, sines."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(images * patches, 3 * heads * d, generator=generator).to(dtype)
    angles = torch.randn(patches, d // 2, generator=generator)
    return qkv, angles.cos(), angles.sin()


def exact(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int) -> torch.Tensor:
    """The twin's result in float64, (T, heads, d)."""
    out = qkv.new_empty(len(qkv), heads, qkv.shape[1] // 3 // heads, dtype=torch.float64)
    patch_attention_twin(qkv.double(), cos.double(), sin.double(), out)
    return out


def error_of(
    images: int, patches: int, heads: int, d: int, dtype: torch.dtype, device: str, c: PatchConfiguration | None
) -> float:
    """Relative L2 error, with NaN where nothing may be read and in what was there before."""
    qkv, cos, sin = inputs(images, patches, heads, d, dtype)
    room = torch.full((qkv.numel() + 64,), torch.nan, dtype=dtype, device=device)
    given_qkv = room[: qkv.numel()].view(qkv.shape).copy_(qkv)
    out = torch.full((len(qkv), heads, d), torch.nan, dtype=dtype, device=device)
    turning = cos.to(device), sin.to(device)
    angles = PatchAngles.of(*turning) if d % 4 == 0 else None
    patch_attention(given_qkv, *turning, out, c, angles=angles)
    expected = exact(qkv.to(device), cos.to(device), sin.to(device), heads)
    assert bool(room[qkv.numel() :].isnan().all())
    return float((out.double() - expected).norm() / expected.norm())


def test_twin_against_loops() -> None:
    """One query at a time, with the model's own rotation."""
    images, patches, heads, d = 2, 5, 3, 12
    qkv, cos, sin = (t.double() for t in inputs(images, patches, heads, d))
    out = exact(qkv, cos, sin, heads).view(images, patches, heads, d)
    both = torch.cat([cos, cos], 1), torch.cat([sin, sin], 1)
    parts = qkv.view(images, patches, 3, heads, d)
    for image in range(images):
        for head in range(heads):
            q, k, v = parts[image, :, :, head].unbind(1)
            q, k = rotate(q, *both), rotate(k, *both)
            for patch in range(patches):
                weights = torch.softmax(k @ q[patch] / d**0.5, 0)
                assert (weights @ v - out[image, patch, head]).norm() < 1e-6  # `rotate` is in float32


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(
    ("images", "patches", "heads", "d"),
    [(2, 5, 1, 16), (1, 37, 2, 24), (1, 47, 1, 72), (1, 32, 1, 80), (2, 33, 1, 32), (1, 16, 1, 6)],
)
def test_kernel(images: int, patches: int, heads: int, d: int, dtype: torch.dtype, device: str) -> None:
    assert error_of(images, patches, heads, d, dtype, device, SMALL if INTERPRETED else None) < BOUND[dtype]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 70), st.integers(1, 2), st.integers(1, 45), st.sampled_from([16, 32, 64]), st.booleans())
def test_any_size(patches: int, heads: int, half: int, block_n: int, steady: bool) -> None:
    c = PatchConfiguration(32, block_n, 4, 2, None, steady=steady)
    assert error_of(1, patches, heads, 2 * half, torch.float32, "cpu", c) < BOUND[torch.float32]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy in the interpreter: overflows are the point
@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("patches", [48, 64])
@pytest.mark.parametrize("dtype", BOUND)
def test_large_scores(dtype: torch.dtype, patches: int, steady: bool, device: str) -> None:
    """A softmax that would overflow without its largest score taken off, and rows far below others."""
    qkv, cos, sin = inputs(1, patches, 2, 24, dtype)
    qkv[:, : 2 * 2 * 24] *= 12
    qkv[:7, : 2 * 24] *= 0.01
    out = torch.empty(patches, 2, 24, dtype=dtype, device=device)
    turning = qkv.to(device, copy=True), cos.to(device), sin.to(device)
    c = SMALL if INTERPRETED else patch_configuration(dtype)
    patch_attention(*turning, out, replace(c, steady=steady))
    expected = exact(qkv, cos, sin, 2)
    bound = 10 * BOUND[dtype]  # a rounding of rotated queries moves scores of hundreds
    assert (out.cpu().double() - expected).norm() / expected.norm() < bound


def given_back(angles: PatchAngles) -> tuple[torch.Tensor, ...]:
    """The cosines and sines (P, n) that they were made of."""
    return angles.table[angles.places.long()].flatten(1, 2).unbind(-1)


def test_distinct_angles_of_a_grid() -> None:
    """As the tower makes them: places count from 0 in both directions, so rows share those of columns."""
    grid = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(10.0), indexing="ij"), -1)
    blocks = grid.view(3, 2, 5, 2, 2).transpose(1, 2).reshape(60, 2)  # patches in merged blocks of 2 by 2
    turns = torch.arange(10.0)[:, None] * torch.tensor([1.0, 0.3, 0.01])
    cos, sin = (of[blocks.long()].flatten(1) for of in (turns.cos(), turns.sin()))
    angles = PatchAngles.of(cos, sin)
    assert angles.table.shape == (10, 3, 2)
    assert angles.places.shape == (60, 2)
    assert angles.places.dtype == torch.int32
    for found, given_ones in zip(given_back(angles), (cos, sin), strict=True):
        assert torch.equal(found, given_ones)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 50))
def test_distinct_angles_of_any(patches: int, half: int, kinds: int) -> None:
    """All bits come back, also the sign of zero and what is no number."""
    generator = torch.Generator().manual_seed(patches)
    values = torch.randn(kinds, generator=generator)
    values[::3], values[1::7] = -0.0, torch.nan
    cos, sin = (values[torch.randint(kinds, (patches, 2 * half), generator=generator)] for _ in range(2))
    angles = PatchAngles.of(cos, sin)
    assert len(angles.table) <= 2 * patches
    assert angles.table[angles.places.long()].shape == (patches, 2, half, 2)
    for found, given_ones in zip(given_back(angles), (cos, sin), strict=True):
        assert torch.equal(found.contiguous().view(torch.int32), given_ones.view(torch.int32))


def test_distinct_angles_need_two_halves() -> None:
    with pytest.raises(ValueError, match="angles of a patch: 3, expected an even number"):
        PatchAngles.of(torch.ones(4, 3), torch.zeros(4, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_at_the_released_size(dtype: torch.dtype) -> None:
    assert error_of(16, 720, 16, 72, dtype, "cuda", None) < BOUND[dtype]


@pytest.mark.gpu
def test_float32_at_the_released_size() -> None:
    assert error_of(4, 720, 16, 72, torch.float32, "cuda", None) < BOUND[torch.float32]


def test_kernels_in_the_interpreter() -> None:
    """The tests above once more with Triton's kernels."""
    run_again_in_the_interpreter(__file__)

# SPDX-License-Identifier: Apache-2.0
"""Attention among patches with keys and values in shared memory, on a Hopper GPU against float64."""

from __future__ import annotations

import pytest
import torch
from hopper_cases import distance, needs_hopper

from alpamayo_rt.kernels.attention.angles import PatchAngles
from alpamayo_rt.kernels.attention.patches import patch_attention, patch_attention_twin
from alpamayo_rt.kernels.hopper import patches as hopper

HEADS, DIM = 16, 72
HOW = {"dtype": torch.bfloat16, "device": "cuda"}


def grid(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of a grid's places in merged blocks of 2 by 2."""
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    at = at.view(rows // 2, 2, columns // 2, 2, 2).transpose(1, 2).reshape(-1, 2)
    turns = (at[:, :, None] * torch.logspace(0, -4, DIM // 4)).flatten(1).cuda()
    return turns.cos(), turns.sin()


def exact(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(qkv), HEADS, DIM, dtype=torch.float64, device="cuda")
    patch_attention_twin(qkv.double(), cos.double(), sin.double(), out)
    return out


@pytest.fixture(autouse=True)
def hopper_gpu() -> None:
    if torch.cuda.is_available():
        needs_hopper()


@pytest.mark.gpu
@pytest.mark.parametrize("parts", [None, 1, 2, 3, 8])
@pytest.mark.parametrize("scale", [1.0, 9.0])
@pytest.mark.parametrize("images", [1, 3, 16])
@pytest.mark.parametrize(("rows", "columns"), [(20, 36), (8, 10), (4, 40)])
def test_against_float64(rows: int, columns: int, images: int, scale: float, parts: int | None) -> None:
    generator = torch.Generator("cuda").manual_seed(rows + images)
    qkv = torch.randn(images * rows * columns, 3, HEADS * DIM, generator=generator, device="cuda")
    qkv[:, :2] *= scale  # scores of several hundred, so that levels rise
    qkv = qkv.flatten(1).bfloat16()
    cos, sin = grid(rows, columns)
    angles, before = PatchAngles.of(cos, sin), qkv.clone()
    outs = [torch.full((len(qkv), HEADS, DIM), torch.nan, **HOW) for _ in range(3)]
    assert hopper.suits(qkv, angles, outs[0])
    for out in outs:
        hopper.patch_attention(qkv, angles, out, parts)
    expected = exact(qkv, cos, sin)
    twin = torch.empty_like(outs[0])
    patch_attention_twin(qkv.clone(), cos, sin, twin)
    assert distance(outs[0], expected) < 1.3 * distance(twin, expected)
    assert all(torch.equal(outs[0], out) for out in outs)
    assert torch.equal(qkv, before)


@pytest.mark.gpu
def test_levels_that_rise_with_every_chunk() -> None:
    cos, sin = grid(20, 36)
    qkv = torch.randn(720, 3, HEADS, DIM, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    qkv[:, :2] *= 9
    qkv[:, 1] *= torch.linspace(0.02, 1, 720, device="cuda")[:, None, None]
    qkv = qkv.flatten(1).bfloat16()
    out, twin = torch.empty(2, 720, HEADS, DIM, **HOW)
    hopper.patch_attention(qkv, PatchAngles.of(cos, sin), out)
    patch_attention_twin(qkv.clone(), cos, sin, twin)
    expected = exact(qkv, cos, sin)
    assert distance(out, expected) < 1.3 * distance(twin, expected)


@pytest.mark.gpu
def test_what_does_not_suit_goes_elsewhere() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    qkv = torch.randn(720, 3 * HEADS * DIM, generator=generator, device="cuda").bfloat16()
    out = torch.empty(720, HEADS, DIM, **HOW)
    turns = torch.rand(720, DIM // 2, generator=generator, device="cuda") * 6
    many = PatchAngles.of(turns.cos(), turns.sin())  # no two alike
    assert not hopper.suits(qkv, many, out)
    expected = exact(qkv, turns.cos(), turns.sin())
    patch_attention(qkv, turns.cos(), turns.sin(), out, angles=many)
    assert distance(out, expected) < 4e-3
    few = PatchAngles.of(*grid(20, 36))
    assert hopper.suits(qkv, few, out)
    assert not hopper.suits(qkv.half(), few, out.half())
    assert not hopper.suits(qkv[:700], PatchAngles(few.table, few.places[:700].contiguous()), out[:700])


@pytest.mark.parametrize(("pairs", "parts"), [(256, 1), (64, 2)])
def test_units_fill_a_gpu(pairs: int, parts: int) -> None:
    """16 and 4 images by 16 heads, 720 patches, 132 multiprocessors."""
    assert hopper.division(pairs, 720, 132) == parts

# SPDX-License-Identifier: Apache-2.0
"""Rotary positions of an image's patches, in Triton: keys where they lie, queries into other memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from alpamayo_rt.kernels.attention.patches import PatchConfiguration
from alpamayo_rt.kernels.skinny.triton_parts import overlaps


@triton.jit
def _turn(source, target, cosine, sine, here, HALF: tl.constexpr):
    """Rotate pairs of columns; each is read and written by one thread, so that both may be the same."""
    first = tl.load(source, mask=here, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=here, other=0.0).to(tl.float32)
    kind: tl.constexpr = target.dtype.element_ty
    tl.store(target, (first * cosine - second * sine).to(kind), mask=here)
    tl.store(target + HALF, (second * cosine + first * sine).to(kind), mask=here)


@triton.jit
def _turn_keys(
    qkv,
    cos,
    sin,
    groups,
    patches,
    width,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """BLOCK groups of neighbouring columns in the first half of a head, and those that they turn with.

    No thread is spent on columns that are not there.
    """
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()
    in_half: tl.constexpr = HALF // GROUP
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = group // (HEADS * in_half)
    head = group // in_half % HEADS
    column = (group % in_half * GROUP)[:, None] + tl.arange(0, GROUP)[None, :]
    here = (group < groups)[:, None]
    angle = (token % patches * HALF)[:, None] + column
    c = tl.load(cos + angle, mask=here, other=0.0)
    s = tl.load(sin + angle, mask=here, other=0.0)
    at = qkv + (token.to(tl.int64) * (3 * width) + width + head * (2 * HALF))[:, None] + column
    _turn(at, at, c, s, here, HALF)


@triton.jit
def turn_tile(
    base, target, cos, sin, start, end, width, FIRST: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr,
    HALF: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """COUNT groups, from the FIRST, of ROWS queries of one head to `target`."""
    in_half: tl.constexpr = HALF // GROUP
    group = FIRST + tl.arange(0, COUNT)
    row = start + group // in_half
    column = (group % in_half * GROUP)[:, None] + tl.arange(0, GROUP)[None, :]
    here = ((row < end) & (group < ROWS * in_half))[:, None]
    angle = (row * HALF)[:, None] + column
    c = tl.load(cos + angle, mask=here, other=0.0)
    s = tl.load(sin + angle, mask=here, other=0.0)
    at = (row * (3 * width))[:, None] + column
    _turn(base + at, target + (row * width)[:, None] + column, c, s, here, HALF)


def turn_keys(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: int, configuration: PatchConfiguration
) -> None:
    """The first of the two kernels: rotates the keys of `patches.patch_attention` in place."""
    width = qkv.shape[1] // 3
    half, overlap = width // heads // 2, overlaps(qkv)
    group = neighbours(half)
    groups, block = len(qkv) * heads * (half // group), configuration.turned
    _turn_keys[(triton.cdiv(groups, block),)](
        qkv, cos, sin, groups, len(cos), width, HEADS=heads, HALF=half, GROUP=group, BLOCK=block,
        OVERLAP=overlap, num_warps=4, launch_pdl=overlap,
    )  # fmt: skip


def neighbours(half: int) -> int:
    """Columns of a head's half that one instruction can read."""
    return min(half & -half, 8)

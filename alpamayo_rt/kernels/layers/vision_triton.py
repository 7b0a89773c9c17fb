# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `layers.vision`; what they do stands at their twins there."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _add_layer_norm(
    x, delta, weight, bias, out, shift, eps, n, ADD: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < n
    at = row * n + column
    kind = x.dtype.element_ty
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    if ADD:
        value = (value + tl.load(delta + at, mask=here, other=0.0).to(tl.float32)).to(kind).to(tl.float32)
        tl.store(x + at, value.to(kind), mask=here)
    if SHIFT:
        value += tl.load(shift + column, mask=here, other=0.0)
    mean = tl.sum(value, 0) / n
    centred = tl.where(here, value - mean, 0.0)
    scaled = centred * tl.rsqrt(tl.sum(centred * centred, 0) / n + eps)
    w = tl.load(weight + column, mask=here, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=here, other=0.0).to(tl.float32)
    tl.store(out + at, (scaled * w + b).to(kind), mask=here)


def add_layer_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    shift: torch.Tensor | None = None,
) -> None:
    """See `vision.add_layer_norm`."""
    rows, n = x.shape
    _add_layer_norm[(rows,)](
        x, delta, weight, bias, out, shift, eps, n, ADD=delta is not None, SHIFT=shift is not None,
        BLOCK=triton.next_power_of_2(n), num_warps=max(1, min(8, triton.next_power_of_2(n) // 512)),
    )  # fmt: skip


@triton.jit
def _rotate_patches(
    qkv,
    cos,
    sin,
    q_out,
    k_out,
    patches,
    heads,
    half,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)
    column = tl.arange(0, BLOCK)
    inside = column < half
    here = (head < heads)[:, None] & inside[None, :]
    offset = head[:, None] * 2 * half + column[None, :]
    width = heads * 2 * half
    kind = qkv.dtype.element_ty
    place = (token % patches) * half + column
    c = tl.load(cos + place, mask=inside, other=0.0)[None, :]
    s = tl.load(sin + place, mask=inside, other=0.0)[None, :]
    source = qkv + token * 3 * width + offset
    target = token * width + offset
    first = tl.load(source, mask=here, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=here, other=0.0).to(tl.float32)
    tl.store(q_out + target, (first * c - second * s).to(kind), mask=here)
    tl.store(q_out + target + half, (second * c + first * s).to(kind), mask=here)
    first = tl.load(source + width, mask=here, other=0.0).to(tl.float32)
    second = tl.load(source + width + half, mask=here, other=0.0).to(tl.float32)
    tl.store(k_out + target, (first * c - second * s).to(kind), mask=here)
    tl.store(k_out + target + half, (second * c + first * s).to(kind), mask=here)


def rotate_patches(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_out: torch.Tensor, k_out: torch.Tensor
) -> None:
    """See `vision.rotate_patches`."""
    tokens, heads, d = q_out.shape
    _rotate_patches[(tokens,)](
        qkv, cos, sin, q_out, k_out, len(cos), heads, d // 2, HEADS=triton.next_power_of_2(heads),
        BLOCK=triton.next_power_of_2(d // 2), num_warps=4,
    )  # fmt: skip

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

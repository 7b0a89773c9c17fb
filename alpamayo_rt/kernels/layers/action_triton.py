# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `layers.action`; what they do stands at their twins there."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps

_TWO = tl.constexpr(2.0)
_PI = tl.constexpr(3.141592653589793)
_ROOT = tl.constexpr(1.4142135623730951)


@triton.jit
def _action_features(x, time, freqs, out, n, f, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    after_the_kernel_before(OVERLAP)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = i < n * 6 * f
    row = i // (6 * f)
    which = i % (6 * f)
    part = which // (2 * f)  # acceleration, curvature, time
    inner = which % (2 * f)
    action = tl.load(x + row * 2 + part, mask=here & (part < 2), other=0.0)
    u = tl.where(part == 2, tl.load(time), action)
    # In this order, as the twin multiplies: at f = 100 another one moves the last digits of the phase.
    argument = u * tl.load(freqs + part * f + inner % f, mask=here, other=0.0) * _TWO * _PI
    value = tl.where(inner < f, tl.sin(argument), tl.cos(argument)) * _ROOT
    tl.store(out + i, value.to(out.dtype.element_ty), mask=here)


def action_features(x: torch.Tensor, time: torch.Tensor, freqs: torch.Tensor, out: torch.Tensor) -> None:
    """See `action.action_features`."""
    n, f = len(x), freqs.shape[1]
    overlap = overlaps(out)
    _action_features[(triton.cdiv(n * 6 * f, 256),)](
        x, time, freqs, out, n, f, BLOCK=256, OVERLAP=overlap, launch_pdl=overlap
    )


@triton.jit
def _silu_rms_norm(x, weight, out, eps, n, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    after_the_kernel_before(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < n
    kind = x.dtype.element_ty
    value = tl.load(x + row * n + column, mask=here, other=0.0).to(tl.float32)
    value = (value / (1 + tl.exp(-value))).to(kind).to(tl.float32)
    normed = (value * tl.rsqrt(tl.sum(value * value, 0) / n + eps)).to(kind).to(tl.float32)
    w = tl.load(weight + column, mask=here, other=0.0).to(tl.float32)
    tl.store(out + row * n + column, (w * normed).to(kind), mask=here)


def silu_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """See `action.silu_rms_norm`."""
    rows, n = x.shape
    overlap = overlaps(out)
    _silu_rms_norm[(rows,)](
        x, weight, out, eps, n, BLOCK=triton.next_power_of_2(n), OVERLAP=overlap, num_warps=2,
        launch_pdl=overlap,
    )  # fmt: skip


@triton.jit
def _velocity(
    x,
    delta,
    norm,
    weight,
    bias,
    out,
    width,
    eps,
    n,
    ADD: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_the_kernel_before(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < n
    kind = x.dtype.element_ty
    # All reads come before the sums, which wait for some of them.
    h = tl.load(x + row * n + column, mask=here, other=0.0).to(tl.float32)
    if ADD:
        h = (h + tl.load(delta + row * n + column, mask=here, other=0.0).to(tl.float32)).to(kind).to(tl.float32)
    scale = tl.load(norm + column, mask=here, other=0.0).to(tl.float32)
    w0 = tl.load(weight + column, mask=here, other=0.0).to(tl.float32)
    w1 = tl.load(weight + n + column, mask=here, other=0.0).to(tl.float32)
    h = (h * tl.rsqrt(tl.sum(h * h, 0) / n + eps)).to(kind).to(tl.float32)
    h = (scale * h).to(kind).to(tl.float32)
    first = tl.sum(h * w0, 0) + tl.load(bias).to(tl.float32)
    second = tl.sum(h * w1, 0) + tl.load(bias + 1).to(tl.float32)
    out += row * 2
    if STEP:
        first = tl.load(out) + width * first
        second = tl.load(out + 1) + width * second
    tl.store(out, first)
    tl.store(out + 1, second)


def velocity(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    norm: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    width: float | None,
) -> None:
    """See `action.velocity`."""
    rows, n = x.shape
    overlap = overlaps(out)
    _velocity[(rows,)](
        x, delta, norm, weight, bias, out, width or 0.0, eps, n, ADD=delta is not None, STEP=width is not None,
        BLOCK=triton.next_power_of_2(n), OVERLAP=overlap, num_warps=8, launch_pdl=overlap,
    )  # fmt: skip

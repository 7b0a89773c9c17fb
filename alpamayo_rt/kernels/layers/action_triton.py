# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `layers.action`; what they do stands at their twins there."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_TWO = tl.constexpr(2.0)
_PI = tl.constexpr(3.141592653589793)
_ROOT = tl.constexpr(1.4142135623730951)


@triton.jit
def _action_features(x, time, freqs, out, n, f, BLOCK: tl.constexpr):
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
    _action_features[(triton.cdiv(n * 6 * f, 256),)](x, time, freqs, out, n, f, BLOCK=256)


@triton.jit
def _silu_rms_norm(x, weight, out, eps, n, BLOCK: tl.constexpr):
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
    _silu_rms_norm[(rows,)](x, weight, out, eps, n, BLOCK=triton.next_power_of_2(n), num_warps=2)


@triton.jit
def _velocity(hidden, weight, bias, out, n, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < n
    h = tl.load(hidden + row * n + column, mask=here, other=0.0).to(tl.float32)
    for which in tl.static_range(2):
        w = tl.load(weight + which * n + column, mask=here, other=0.0).to(tl.float32)
        tl.store(out + row * 2 + which, tl.sum(h * w, 0) + tl.load(bias + which).to(tl.float32))


def velocity(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> None:
    """See `action.velocity`."""
    rows, n = hidden.shape
    _velocity[(rows,)](hidden, weight, bias, out, n, BLOCK=triton.next_power_of_2(n), num_warps=4)

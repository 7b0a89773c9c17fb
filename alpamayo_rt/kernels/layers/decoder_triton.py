# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `layers.decoder`; what they do stands at their twins there.

One program a token (or a few heads of it). Rows are read once: sums of squares and largest magnitudes are taken
over the whole row in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.layers.rounding_triton import store_row, stored_bytes


@triton.jit
def _add_rms_norm(
    x,
    delta,
    weight,
    out,
    out_scale,
    input_scale,
    feature,
    feature_row,
    eps,
    n,
    ADD: tl.constexpr,
    FEATURE: tl.constexpr,
    QUANTIZE: tl.constexpr,
    STATIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < n
    at = row * n + column
    kind = x.dtype.element_ty
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    if ADD:
        given = tl.load(delta + at, mask=here, other=0.0).to(tl.float32)
        value = (value + given).to(kind).to(tl.float32)
    if FEATURE:
        source = tl.load(feature_row + row)
        extra = tl.load(feature + source * n + column, mask=column < tl.where(source >= 0, n, 0), other=0.0)
        value = (value + extra.to(tl.float32)).to(kind).to(tl.float32)
    if ADD or FEATURE:
        tl.store(x + at, value.to(kind), mask=here)
    normed = (value * tl.rsqrt(tl.sum(value * value, 0) / n + eps)).to(kind).to(tl.float32)
    normed = (tl.load(weight + column, mask=here, other=0.0).to(tl.float32) * normed).to(kind).to(tl.float32)
    store_row(normed, here, at, out, out_scale, input_scale, row, QUANTIZE, STATIC)


def add_rms_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    out_scale: torch.Tensor | None,
    input_scale: torch.Tensor | None,
    feature: torch.Tensor | None,
    feature_row: torch.Tensor | None,
) -> None:
    """See `decoder.add_rms_norm`."""
    rows, n = x.shape
    _add_rms_norm[(rows,)](
        x, delta, weight, stored_bytes(out), out_scale, input_scale, feature, feature_row, eps, n,
        ADD=delta is not None, FEATURE=feature is not None, QUANTIZE=out_scale is not None,
        STATIC=input_scale is not None,
        BLOCK=triton.next_power_of_2(n), num_warps=_warps(n),
    )  # fmt: skip


@triton.jit
def stream_row(stream, row, n, BLOCK: tl.constexpr):
    """A row of the stream (n values), or something that nobody reads where there is none (BLOCK 0)."""
    if BLOCK > 0:
        column = tl.arange(0, BLOCK)
        return tl.load(stream + row * n + column, mask=column < n, other=0.0).to(tl.float32)
    else:
        return 0.0


@triton.jit
def inverse_rms(value, n, eps, BLOCK: tl.constexpr):
    """What an RMSNorm of that row multiplies by; 1 where there is none."""
    if BLOCK > 0:
        return tl.rsqrt(tl.sum(value * value, 0) / n + eps)
    else:
        return 1.0


@triton.jit
def _gated(gate_up, row, n, column, here, stream, hidden, eps, STREAM: tl.constexpr):
    kind = gate_up.dtype.element_ty
    # All reads come before the sum, which waits for some of them.
    value = stream_row(stream, row, hidden, STREAM)
    gate = tl.load(gate_up + row * 2 * n + column, mask=here, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * n + n + column, mask=here, other=0.0).to(tl.float32)
    share = inverse_rms(value, hidden, eps, STREAM)
    gate, up = (gate * share).to(kind).to(tl.float32), (up * share).to(kind).to(tl.float32)
    opened = (gate / (1 + tl.exp(-gate))).to(kind).to(tl.float32)
    return (opened * up).to(kind).to(tl.float32)


@triton.jit
def _swiglu(gate_up, out, n, stream, hidden, eps, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = column < n
    value = _gated(gate_up, row, n, column, here, stream, hidden, eps, STREAM)
    tl.store(out + row * n + column, value.to(out.dtype.element_ty), mask=here)


@triton.jit
def _swiglu_quantize(gate_up, out, out_scale, input_scale, n, STATIC: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    here = column < n
    value = _gated(gate_up, row, n, column, here, gate_up, 1, 0.0, 0)
    store_row(value, here, row * n + column, out, out_scale, input_scale, row, True, STATIC)


def swiglu(
    gate_up: torch.Tensor,
    out: torch.Tensor,
    out_scale: torch.Tensor | None,
    input_scale: torch.Tensor | None,
    stream: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """See `decoder.swiglu`."""
    rows, n = out.shape
    if out_scale is None:
        block = min(triton.next_power_of_2(n), 2048)
        _swiglu[(rows, triton.cdiv(n, block))](
            gate_up, out, n, stream, 0 if stream is None else stream.shape[1], eps,
            STREAM=row_block(stream), BLOCK=block, num_warps=8,
        )  # fmt: skip
    else:
        _swiglu_quantize[(rows,)](
            gate_up, stored_bytes(out), out_scale, input_scale, n, STATIC=input_scale is not None,
            BLOCK=triton.next_power_of_2(n), num_warps=_warps(n),
        )  # fmt: skip


def row_block(stream: torch.Tensor | None) -> int:
    """For `stream_row` and `inverse_rms`."""
    return 0 if stream is None else triton.next_power_of_2(stream.shape[1])


def _warps(n: int) -> int:
    """Threads for a row of n values: about 16 values each."""
    return max(1, min(16, triton.next_power_of_2(n) // 512))

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
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps


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
def _stream_row(stream, row, n, BLOCK: tl.constexpr):
    """A row of the stream (n values), or something that nobody reads where there is none (BLOCK 0)."""
    if BLOCK > 0:
        column = tl.arange(0, BLOCK)
        return tl.load(stream + row * n + column, mask=column < n, other=0.0).to(tl.float32)
    else:
        return 0.0


@triton.jit
def _inverse_rms(value, n, eps, BLOCK: tl.constexpr):
    """What an RMSNorm of that row multiplies by; 1 where there is none."""
    if BLOCK > 0:
        return tl.rsqrt(tl.sum(value * value, 0) / n + eps)
    else:
        return 1.0


@triton.jit
def _turned(
    base,
    weight,
    cos,
    sin,
    half,
    half_column,
    here,
    eps,
    whole,
    hidden,
    kind: tl.constexpr,
    STREAM: tl.constexpr,
):
    """Both halves of some heads, normed and rotated, float32; `base` (heads, BLOCK) points at the first."""
    first = tl.load(base, mask=here, other=0.0).to(tl.float32)
    second = tl.load(base + half, mask=here, other=0.0).to(tl.float32)
    # Behind the reads, as the sum waits for others.
    share = _inverse_rms(whole, hidden, eps, STREAM)
    first, second = first * share, second * share
    rms = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * half) + eps)[:, None]
    inside = half_column < half
    w1 = tl.load(weight + half_column, mask=inside, other=0.0).to(tl.float32)[None, :]
    w2 = tl.load(weight + half + half_column, mask=inside, other=0.0).to(tl.float32)[None, :]
    first = ((first * rms).to(kind).to(tl.float32) * w1).to(kind).to(tl.float32)
    second = ((second * rms).to(kind).to(tl.float32) * w2).to(kind).to(tl.float32)
    c = tl.load(cos + half_column, mask=inside, other=0.0)[None, :]
    s = tl.load(sin + half_column, mask=inside, other=0.0)[None, :]
    return first * c - second * s, second * c + first * s


@triton.jit
def _qk_norm_rope(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    slots,
    q_out,
    keys,
    values,
    eps,
    row_stride,
    heads,
    kv_heads,
    key_head_stride,
    key_slot_stride,
    value_head_stride,
    value_slot_stride,
    half,
    stream,
    hidden,
    STREAM: tl.constexpr,
    Q_PROGRAMS: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_the_kernel_before(OVERLAP)
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    kind = qkv.dtype.element_ty
    source = qkv + token * row_stride
    cos += token * half
    sin += token * half
    whole = _stream_row(stream, token, hidden, STREAM)
    # Two ifs: the first is decided when it is compiled, and without it a q_out that is not there would be read.
    if Q_PROGRAMS > 0:  # noqa: SIM102
        if part < Q_PROGRAMS:
            head = part * HEADS + tl.arange(0, HEADS)
            here = (head < heads)[:, None] & (column < half)[None, :]
            offset = head[:, None] * 2 * half + column[None, :]
            first, second = _turned(
                source + offset, q_weight, cos, sin, half, column, here, eps, whole, hidden, kind, STREAM
            )
            target = q_out + token * heads * 2 * half + offset
            tl.store(target, first.to(kind), mask=here)
            tl.store(target + half, second.to(kind), mask=here)
    if part >= Q_PROGRAMS:
        head = (part - Q_PROGRAMS) * HEADS + tl.arange(0, HEADS)
        here = (head < kv_heads)[:, None] & (column < half)[None, :]
        offset = head[:, None] * 2 * half + column[None, :]
        slot = tl.load(slots + token)
        base = source + heads * 2 * half
        first, second = _turned(
            base + offset, k_weight, cos, sin, half, column, here, eps, whole, hidden, kind, STREAM
        )
        target = keys + head[:, None].to(tl.int64) * key_head_stride + slot * key_slot_stride + column[None, :]
        tl.store(target, first.to(kind), mask=here)
        tl.store(target + half, second.to(kind), mask=here)
        base += kv_heads * 2 * half
        target = (
            values + head[:, None].to(tl.int64) * value_head_stride + slot * value_slot_stride + column[None, :]
        )
        share = _inverse_rms(whole, hidden, eps, STREAM)
        first = tl.load(base + offset, mask=here, other=0.0).to(tl.float32) * share
        second = tl.load(base + half + offset, mask=here, other=0.0).to(tl.float32) * share
        tl.store(target, first.to(kind), mask=here)
        tl.store(target + half, second.to(kind), mask=here)


def qk_norm_rope(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    q_out: torch.Tensor | None,
    keys: torch.Tensor,
    values: torch.Tensor,
    stream: torch.Tensor | None = None,
) -> None:
    """See `decoder.qk_norm_rope`."""
    n, kv, half = len(qkv), len(keys), keys.shape[2] // 2
    heads = 0 if q_out is None else q_out.shape[1]
    # Few tokens: few heads a program, for more of them at once.
    together = 8 if n > 64 else 2
    q_programs = triton.cdiv(heads, together)
    overlap = overlaps(qkv)
    _qk_norm_rope[(n, q_programs + triton.cdiv(kv, together))](
        qkv, q_weight, k_weight, cos, sin, slots, q_out, keys, values, eps, qkv.stride(0), heads, kv,
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), half,
        stream, 0 if stream is None else stream.shape[1], STREAM=_row_block(stream),
        Q_PROGRAMS=q_programs, HEADS=together, BLOCK=triton.next_power_of_2(half),
        num_warps=4 if n > 64 else 2, OVERLAP=overlap, launch_pdl=overlap,
    )  # fmt: skip


@triton.jit
def _gated(gate_up, row, n, column, here, stream, hidden, eps, STREAM: tl.constexpr):
    kind = gate_up.dtype.element_ty
    # All reads come before the sum, which waits for some of them.
    value = _stream_row(stream, row, hidden, STREAM)
    gate = tl.load(gate_up + row * 2 * n + column, mask=here, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * n + n + column, mask=here, other=0.0).to(tl.float32)
    share = _inverse_rms(value, hidden, eps, STREAM)
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
            STREAM=_row_block(stream), BLOCK=block, num_warps=8,
        )  # fmt: skip
    else:
        _swiglu_quantize[(rows,)](
            gate_up, stored_bytes(out), out_scale, input_scale, n, STATIC=input_scale is not None,
            BLOCK=triton.next_power_of_2(n), num_warps=_warps(n),
        )  # fmt: skip


def _row_block(stream: torch.Tensor | None) -> int:
    return 0 if stream is None else triton.next_power_of_2(stream.shape[1])


def _warps(n: int) -> int:
    """Threads for a row of n values: about 16 values each."""
    return max(1, min(16, triton.next_power_of_2(n) // 512))

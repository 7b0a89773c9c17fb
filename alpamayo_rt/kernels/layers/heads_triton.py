# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `layers.decoder.qk_norm_rope`: one program a few heads of a token, or a token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from alpamayo_rt.kernels.layers.decoder_triton import inverse_rms, row_block, stream_row
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps

_WARPS_OF_TOKEN = 8


@triton.jit
def _halves(base, half, here):
    """Both halves of some heads, float32; `base` (heads, BLOCK) points at the first."""
    first = tl.load(base, mask=here, other=0.0).to(tl.float32)
    return first, tl.load(base + half, mask=here, other=0.0).to(tl.float32)


@triton.jit
def _pair(row, half, half_column):
    """Both halves of one head's row, (1, BLOCK) float32."""
    inside = half_column < half
    first = tl.load(row + half_column, mask=inside, other=0.0).to(tl.float32)
    return first[None, :], tl.load(row + half + half_column, mask=inside, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _turn(first, second, w1, w2, c, s, half, eps, kind: tl.constexpr):
    """Halves of heads, normed and rotated."""
    rms = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * half) + eps)[:, None]
    first = ((first * rms).to(kind).to(tl.float32) * w1).to(kind).to(tl.float32)
    second = ((second * rms).to(kind).to(tl.float32) * w2).to(kind).to(tl.float32)
    return first * c - second * s, second * c + first * s


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
    first, second = _halves(base, half, here)
    # Behind the reads, as the sum waits for others.
    share = inverse_rms(whole, hidden, eps, STREAM)
    w1, w2 = _pair(weight, half, half_column)
    inside = half_column < half
    c = tl.load(cos + half_column, mask=inside, other=0.0)[None, :]
    s = tl.load(sin + half_column, mask=inside, other=0.0)[None, :]
    return _turn(first * share, second * share, w1, w2, c, s, half, eps, kind)


@triton.jit
def _divided_qk_norm_rope(
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
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """All heads of a token, with the division of the stream's norm.

    The product before is the library's, which starts when all before it is done. So when this kernel starts,
    the stream is there, and is read, past what this processor may have kept of it, while the product's end is
    still awaited; as are weights and angles, which are older.
    """
    if OVERLAP:
        gdc_launch_dependents()
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < half
    kind = qkv.dtype.element_ty
    place = tl.arange(0, STREAM)
    whole = tl.load(stream + token * hidden + place, mask=place < hidden, other=0.0, cache_modifier=".cg")
    slot = tl.load(slots + token)
    q1, q2 = _pair(q_weight, half, column)
    k1, k2 = _pair(k_weight, half, column)
    c = tl.load(cos + token * half + column, mask=inside, other=0.0)[None, :]
    s = tl.load(sin + token * half + column, mask=inside, other=0.0)[None, :]
    share = inverse_rms(whole.to(tl.float32), hidden, eps, STREAM)
    if OVERLAP:
        gdc_wait()
    head = tl.arange(0, HEADS)[:, None]
    kv_head = tl.arange(0, KV_HEADS)[:, None]
    q_here = (head < heads) & inside[None, :]
    here = (kv_head < kv_heads) & inside[None, :]
    q_offset = head * 2 * half + column[None, :]
    offset = kv_head * 2 * half + column[None, :]
    # All reads come before the first write.
    source = qkv + token * row_stride
    first, second = _halves(source + q_offset, half, q_here)
    source += heads * 2 * half
    key1, key2 = _halves(source + offset, half, here)
    source += kv_heads * 2 * half
    value1, value2 = _halves(source + offset, half, here)
    first, second = _turn(first * share, second * share, q1, q2, c, s, half, eps, kind)
    key1, key2 = _turn(key1 * share, key2 * share, k1, k2, c, s, half, eps, kind)
    target = q_out + token * heads * 2 * half + q_offset
    tl.store(target, first.to(kind), mask=q_here)
    tl.store(target + half, second.to(kind), mask=q_here)
    kv_head = kv_head.to(tl.int64)
    target = keys + kv_head * key_head_stride + slot * key_slot_stride + column[None, :]
    tl.store(target, key1.to(kind), mask=here)
    tl.store(target + half, key2.to(kind), mask=here)
    target = values + kv_head * value_head_stride + slot * value_slot_stride + column[None, :]
    tl.store(target, (value1 * share).to(kind), mask=here)
    tl.store(target + half, (value2 * share).to(kind), mask=here)


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
    whole = stream_row(stream, token, hidden, STREAM)
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
        share = inverse_rms(whole, hidden, eps, STREAM)
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
    overlap, block = overlaps(qkv), triton.next_power_of_2(half)
    if stream is not None and q_out is not None and n > 64:
        _divided_qk_norm_rope[(n,)](
            qkv, q_weight, k_weight, cos, sin, slots, q_out, keys, values, eps, qkv.stride(0), heads, kv,
            keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), half, stream, stream.shape[1],
            STREAM=row_block(stream), HEADS=triton.next_power_of_2(heads), KV_HEADS=triton.next_power_of_2(kv),
            BLOCK=block, OVERLAP=overlap, num_warps=_WARPS_OF_TOKEN, launch_pdl=overlap,
        )  # fmt: skip
        return
    _qk_norm_rope[(n, q_programs + triton.cdiv(kv, together))](
        qkv, q_weight, k_weight, cos, sin, slots, q_out, keys, values, eps, qkv.stride(0), heads, kv,
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), half,
        stream, 0 if stream is None else stream.shape[1], STREAM=row_block(stream),
        Q_PROGRAMS=q_programs, HEADS=together, BLOCK=block,
        num_warps=4 if n > 64 else 2, OVERLAP=overlap, launch_pdl=overlap,
    )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of `operations.decode_attention_from_qkv`.

The prefix is divided among programs; each reads its tokens once for all query rows of a key-value head. The
tail of each sequence is a further program of that head, which writes the new token's key and value first. Every
program norms and rotates the queries that it needs itself. A second kernel combines the parts.

Where kernels overlap (`skinny.configurations.PROGRAMMATIC_LAUNCH`), the prefix is fetched before the previous
kernel has ended: neither the prefix nor its length may be written by that one.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.attention.scratch import DecodeScratch
from alpamayo_rt.kernels.attention.triton_shared import (
    attend_tile,
    combine,
    dot_precision,
    fetch_ahead,
    padded,
    store_part,
)
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps


@triton.jit
def _opposite(column, DIM: tl.constexpr):
    """Of each column, the one that it is rotated with."""
    return tl.where(column < DIM // 2, column + DIM // 2, column - DIM // 2)


@triton.jit
def _turned(
    source, weight, opposite_weight, cos, sin, token, inside, eps, DIM: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Heads at `source` (N,), of these tokens, normed and rotated, (N, BLOCK_D) in their own type.

    Each is read a second time with its halves exchanged: cheaper than to exchange them between threads.
    """
    kind: tl.constexpr = source.dtype.element_ty
    column = tl.arange(0, BLOCK_D)
    here = inside[:, None] & (column < DIM)[None, :]
    # All reads come before the sum, which waits for the first.
    value = tl.load(source[:, None] + column[None, :], mask=here, other=0.0)
    other = tl.load(source[:, None] + _opposite(column, DIM)[None, :], mask=here, other=0.0)
    angle = token[:, None] * (DIM // 2) + (column % (DIM // 2))[None, :]
    c = tl.load(cos + angle, mask=here, other=0.0)
    s = tl.load(sin + angle, mask=here, other=0.0)
    value, other = value.to(tl.float32), other.to(tl.float32)
    rms = tl.rsqrt(tl.sum(value * value, 1) / DIM + eps)[:, None]
    value = ((value * rms).to(kind).to(tl.float32) * weight.to(tl.float32)[None, :]).to(kind).to(tl.float32)
    other = (other * rms).to(kind).to(tl.float32) * opposite_weight.to(tl.float32)[None, :]
    other = other.to(kind).to(tl.float32)
    return (value * c + tl.where((column < DIM // 2)[None, :], -other, other) * s).to(kind)


@triton.jit
def _decode(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    slots,
    keys,
    values,
    prefix_length,
    tail_length,
    parts,
    log_sums,
    row_stride,
    key_head_stride,
    key_stride,
    value_head_stride,
    value_stride,
    tail_start,
    tail_room,
    sequences,
    heads,
    kv_heads,
    eps,
    scale,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    kv_head, split = tl.program_id(0), tl.program_id(1)
    key_head = keys + kv_head.to(tl.int64) * key_head_stride
    value_head = values + kv_head.to(tl.int64) * value_head_stride
    column = tl.arange(0, BLOCK_D)
    real = column < DIM
    # Weights no kernel writes: they need not wait.
    q_norm = tl.load(q_weight + column, mask=real, other=0.0)
    opposite_q_norm = tl.load(q_weight + _opposite(column, DIM), mask=real, other=0.0)
    # Query rows of this program: all sequences over a piece of the prefix, or one sequence over its tail.
    if split < SPLITS:
        length = tl.load(prefix_length).to(tl.int32)
        piece = tl.cdiv(tl.cdiv(length, SPLITS), 16) * 16
        first = split * piece
        end = tl.minimum(first + piece, length)
        sequence = 0
        count = sequences * GROUP
        part = split
        if OVERLAP:  # the prompt has long been there, other than qkv and the tails' last tokens
            fetch_ahead(key_head, key_stride, first, end, DIM, BLOCK_N)
            fetch_ahead(value_head, value_stride, first, end, DIM, BLOCK_N)
        after_the_kernel_before(OVERLAP)
    else:
        after_the_kernel_before(OVERLAP)
        sequence = split - SPLITS
        first = tail_start + sequence * tail_room
        end = first + tl.load(tail_length + sequence).to(tl.int32)
        count = GROUP
        part = SPLITS
        # The new token, one row: its key and value go into the cache.
        one = tl.arange(0, 1)
        slot = tl.load(slots + sequence)
        source = qkv + sequence * row_stride + (heads + kv_head + one) * DIM
        value = tl.load(source[:, None] + kv_heads * DIM + column[None, :], mask=real[None, :], other=0.0)
        key = _turned(
            source, tl.load(k_weight + column, mask=real, other=0.0),
            tl.load(k_weight + _opposite(column, DIM), mask=real, other=0.0),
            cos, sin, sequence + one, one < 1, eps, DIM, BLOCK_D,
        )  # fmt: skip
        tl.store(key_head + slot * key_stride + one[:, None] + column[None, :], key, mask=real[None, :])
        tl.store(value_head + slot * value_stride + one[:, None] + column[None, :], value, mask=real[None, :])
        tl.debug_barrier()  # other threads of this program read them below; no other program does
    member = tl.arange(0, BLOCK_M)
    head = kv_head * GROUP + member % GROUP
    inside = member < count
    token = sequence + member // GROUP
    rows_q = _turned(
        qkv + token * row_stride + head * DIM, q_norm, opposite_q_norm, cos, sin, token, inside, eps,
        DIM, BLOCK_D,
    )  # fmt: skip
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for n in range(first, end, BLOCK_N):
        largest, total, mixed = attend_tile(
            rows_q, key_head, value_head, key_stride, value_stride, n, end, largest, total, mixed, scale,
            True, DIM, BLOCK_D, BLOCK_N, PRECISION,
        )  # fmt: skip
    row = token * heads + head
    rows = sequences * heads
    store_part(
        parts + part * rows.to(tl.int64) * DIM, log_sums + part * rows, row, inside, largest, total, mixed,
        DIM, BLOCK_D,
    )  # fmt: skip


def decode_attention_from_qkv(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_length: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    scratch: DecodeScratch,
) -> None:
    """See `operations.decode_attention_from_qkv`."""
    sequences, heads, dim = out.shape
    kv_heads, c = len(keys), scratch.configuration
    group, overlap = heads // kv_heads, overlaps(out)
    _decode[(kv_heads, c.splits + sequences)](
        qkv, q_weight, k_weight, cos, sin, slots, keys, values, prefix_length, tail_length,
        scratch.parts, scratch.log_sums, qkv.stride(0), *keys.stride()[:2], *values.stride()[:2],
        tail_start, tail_room, sequences, heads, kv_heads, eps, scale * math.log2(math.e),
        GROUP=group, DIM=dim, BLOCK_D=padded(dim), BLOCK_M=padded(sequences * group), BLOCK_N=c.block_n,
        SPLITS=c.splits, PRECISION=dot_precision(qkv),
        OVERLAP=overlap, num_warps=c.warps, num_stages=c.stages, launch_pdl=overlap,
    )  # fmt: skip
    combine(scratch.parts, scratch.log_sums, out)

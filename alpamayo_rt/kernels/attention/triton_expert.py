# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of `operations.expert_attention`.

A program holds a tile of one candidate's queries, all heads of a group together, and walks over a piece of the
prefix; the last piece is followed by the candidate's tail and its own tokens. Pieces are cut so that these come
out even.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.attention.scratch import ExpertScratch
from alpamayo_rt.kernels.attention.triton_shared import (
    attend_tile,
    combine,
    dot_precision,
    padded,
    store_part,
)
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps


@triton.jit
def _expert(
    q,
    keys,
    values,
    own_keys,
    own_values,
    prefix_length,
    tail_sequence,
    tail_length,
    parts,
    log_sums,
    q_candidate_stride,
    q_token_stride,
    q_head_stride,
    key_head_stride,
    key_stride,
    value_head_stride,
    value_stride,
    own_key_candidate_stride,
    own_key_stride,
    own_key_head_stride,
    own_value_candidate_stride,
    own_value_stride,
    own_value_head_stride,
    tail_start,
    tail_room,
    rows,
    waypoints,
    heads,
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
    after_the_kernel_before(OVERLAP)
    # Pieces of one tile lie far apart in launch order, tiles that read the same piece of the cache near.
    tiles = tl.cdiv(waypoints * GROUP, BLOCK_M)
    candidate = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    kv_head, split = tl.program_id(1), tl.program_id(2)
    length = tl.load(prefix_length).to(tl.int32)
    tail = tl.load(tail_length + candidate).to(tl.int32)
    # The private tokens take whole blocks each, as many as the last piece is shorter by.
    private = (tl.cdiv(tail, BLOCK_N) + tl.cdiv(waypoints, BLOCK_N)) * BLOCK_N
    piece = tl.cdiv(tl.cdiv(length + private, SPLITS), BLOCK_N) * BLOCK_N
    first = tl.minimum(split * piece, length)
    end = tl.minimum(first + piece, length)
    if split == SPLITS - 1:
        end = length

    member = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_D)
    inside = member < waypoints * GROUP
    token, head = member // GROUP, kv_head * GROUP + member % GROUP
    source = q + candidate.to(tl.int64) * q_candidate_stride
    source += token[:, None] * q_token_stride + head[:, None] * q_head_stride
    rows_q = tl.load(source + column[None, :], mask=inside[:, None] & (column < DIM)[None, :], other=0.0)
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    key_head = keys + kv_head.to(tl.int64) * key_head_stride
    value_head = values + kv_head.to(tl.int64) * value_head_stride
    whole = first + tl.maximum(end - first, 0) // BLOCK_N * BLOCK_N
    for n in range(first, whole, BLOCK_N):
        largest, total, mixed = attend_tile(
            rows_q, key_head, value_head, key_stride, value_stride, n, end, largest, total, mixed, scale,
            False, DIM, BLOCK_D, BLOCK_N, PRECISION,
        )  # fmt: skip
    if whole < end:
        largest, total, mixed = attend_tile(
            rows_q, key_head, value_head, key_stride, value_stride, whole, end, largest, total, mixed, scale,
            True, DIM, BLOCK_D, BLOCK_N, PRECISION,
        )  # fmt: skip
    if split == SPLITS - 1:
        start = tail_start + tl.load(tail_sequence + candidate).to(tl.int32) * tail_room
        for n in range(start, start + tail, BLOCK_N):
            largest, total, mixed = attend_tile(
                rows_q, key_head, value_head, key_stride, value_stride, n, start + tail, largest, total, mixed,
                scale, True, DIM, BLOCK_D, BLOCK_N, PRECISION,
            )  # fmt: skip
        own_k = own_keys + candidate.to(tl.int64) * own_key_candidate_stride + kv_head * own_key_head_stride
        own_v = own_values + candidate.to(tl.int64) * own_value_candidate_stride
        own_v += kv_head * own_value_head_stride
        for n in range(0, waypoints, BLOCK_N):
            largest, total, mixed = attend_tile(
                rows_q, own_k, own_v, own_key_stride, own_value_stride, n, waypoints, largest, total, mixed,
                scale, True, DIM, BLOCK_D, BLOCK_N, PRECISION,
            )  # fmt: skip
    row = (candidate * waypoints + token) * heads + head
    store_part(
        parts + split * rows.to(tl.int64) * DIM, log_sums + split * rows, row, inside, largest, total, mixed,
        DIM, BLOCK_D,
    )  # fmt: skip


def expert_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_sequence: torch.Tensor,
    tail_length: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    scratch: ExpertScratch,
) -> None:
    """See `operations.expert_attention`."""
    candidates, waypoints, heads, dim = q.shape
    kv_heads, c = len(keys), scratch.configuration
    group, overlap = heads // kv_heads, overlaps(out)
    tiles = triton.cdiv(waypoints * group, c.block_m)
    _expert[(candidates * tiles, kv_heads, c.splits)](
        q, keys, values, own_keys, own_values, prefix_length, tail_sequence, tail_length,
        scratch.parts, scratch.log_sums,
        *q.stride()[:3], *keys.stride()[:2], *values.stride()[:2], *own_keys.stride()[:3],
        *own_values.stride()[:3], tail_start, tail_room, candidates * waypoints * heads, waypoints, heads,
        scale * math.log2(math.e),
        GROUP=group, DIM=dim, BLOCK_D=padded(dim), BLOCK_M=c.block_m, BLOCK_N=c.block_n, SPLITS=c.splits,
        PRECISION=dot_precision(q), OVERLAP=overlap, num_warps=c.warps, num_stages=c.stages,
        maxnreg=c.registers, launch_pdl=overlap,
    )  # fmt: skip
    combine(scratch.parts, scratch.log_sums, out)

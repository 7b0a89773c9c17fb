# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of `operations.expert_attention`.

A tile is queries of one candidate, all heads of a group together. It has a step for each block of the prefix,
of the candidate's tail and of its own tokens. The steps of all tiles, one tile after the other, are cut into
pieces of one length, a piece a program: no program waits for a longer one. Where a piece ends in the middle of
a tile, the tile has parts, which a second kernel combines.
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
    kv_heads,
    scale,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PARTS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    PADDED_CANDIDATES: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_the_kernel_before(OVERLAP)
    length = tl.load(prefix_length).to(tl.int32)
    every = tl.arange(0, PADDED_CANDIDATES)
    tails = tl.load(tail_length + every, mask=every < CANDIDATES, other=0).to(tl.int32)
    # All tiles count as many steps for the tail as the longest needs.
    prefix_steps, tail_steps = tl.cdiv(length, BLOCK_N), tl.cdiv(tl.max(tails, 0), BLOCK_N)
    steps = prefix_steps + tail_steps + tl.cdiv(waypoints, BLOCK_N)
    tiles_each = tl.cdiv(waypoints * GROUP, BLOCK_M)
    tiles = kv_heads * CANDIDATES * tiles_each
    piece = tl.cdiv(tiles * steps, tl.num_programs(0))
    start = tl.program_id(0) * piece
    stop = tl.minimum(start + piece, tiles * steps)
    column = tl.arange(0, BLOCK_D)

    for tile in range(start // steps, tl.cdiv(stop, steps)):
        # Tiles that read the same piece of the cache follow each other.
        kv_head, rest = tile // (CANDIDATES * tiles_each), tile % (CANDIDATES * tiles_each)
        candidate = rest // tiles_each
        low, high = tl.maximum(start - tile * steps, 0), tl.minimum(stop - tile * steps, steps)
        member = (rest % tiles_each) * BLOCK_M + tl.arange(0, BLOCK_M)
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
        end = tl.minimum(high * BLOCK_N, length)
        whole = tl.minimum(high, length // BLOCK_N) * BLOCK_N
        for n in range(low * BLOCK_N, whole, BLOCK_N):
            largest, total, mixed = attend_tile(
                rows_q, key_head, value_head, key_stride, value_stride, n, end, largest, total, mixed, scale,
                False, DIM, BLOCK_D, BLOCK_N, PRECISION,
            )  # fmt: skip
        # What follows has few steps, often one: nothing to be fetched ahead.
        for n in tl.range(tl.maximum(low * BLOCK_N, whole), end, BLOCK_N, num_stages=1):
            largest, total, mixed = attend_tile(
                rows_q, key_head, value_head, key_stride, value_stride, n, end, largest, total, mixed, scale,
                True, DIM, BLOCK_D, BLOCK_N, PRECISION,
            )  # fmt: skip
        first = tail_start + tl.load(tail_sequence + candidate).to(tl.int32) * tail_room
        tail = tl.load(tail_length + candidate).to(tl.int32)
        end = first + tl.minimum((high - prefix_steps) * BLOCK_N, tail)
        for n in tl.range(first + tl.maximum(low - prefix_steps, 0) * BLOCK_N, end, BLOCK_N, num_stages=1):
            largest, total, mixed = attend_tile(
                rows_q, key_head, value_head, key_stride, value_stride, n, first + tail, largest, total, mixed,
                scale, True, DIM, BLOCK_D, BLOCK_N, PRECISION,
            )  # fmt: skip
        own_k = own_keys + candidate.to(tl.int64) * own_key_candidate_stride + kv_head * own_key_head_stride
        own_v = own_values + candidate.to(tl.int64) * own_value_candidate_stride
        own_v += kv_head * own_value_head_stride
        before = prefix_steps + tail_steps
        for n in tl.range(
            tl.maximum(low - before, 0) * BLOCK_N, (high - before) * BLOCK_N, BLOCK_N, num_stages=1
        ):
            largest, total, mixed = attend_tile(
                rows_q, own_k, own_v, own_key_stride, own_value_stride, n, waypoints, largest, total, mixed,
                scale, True, DIM, BLOCK_D, BLOCK_N, PRECISION,
            )  # fmt: skip
        row = (candidate * waypoints + token) * heads + head
        part = tl.program_id(0) - tile * steps // piece
        store_part(
            parts + part * rows.to(tl.int64) * DIM, log_sums + part * rows, row, inside, largest, total, mixed,
            DIM, BLOCK_D,
        )  # fmt: skip
        if high == steps:
            for unused in range(part + 1, PARTS):
                tl.store(log_sums + unused * rows + row, float("-inf"), mask=inside)


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
    _expert[(c.programs,)](
        q, keys, values, own_keys, own_values, prefix_length, tail_sequence, tail_length,
        scratch.parts, scratch.log_sums,
        *q.stride()[:3], *keys.stride()[:2], *values.stride()[:2], *own_keys.stride()[:3],
        *own_values.stride()[:3], tail_start, tail_room, candidates * waypoints * heads, waypoints, heads,
        kv_heads, scale * math.log2(math.e),
        GROUP=group, DIM=dim, BLOCK_D=padded(dim), BLOCK_M=c.block_m, BLOCK_N=c.block_n,
        PARTS=len(scratch.parts), CANDIDATES=candidates, PADDED_CANDIDATES=triton.next_power_of_2(candidates),
        PRECISION=dot_precision(q), OVERLAP=overlap, num_warps=c.warps, num_stages=c.stages,
        maxnreg=c.registers, launch_pdl=overlap,
    )  # fmt: skip
    combine(scratch.parts, scratch.log_sums, out)

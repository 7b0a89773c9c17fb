# SPDX-License-Identifier: Apache-2.0
"""Kernel of `operations.expert_attention` for Hopper, in Gluon, whose warps share the work by kind.

A program serves three units of 64 queries (one head and 64 waypoints of a candidate each). One warp fetches
tiles of the cache through the tensor memory accelerator; four warps a unit multiply and weigh them, and while
one unit weighs, the others multiply. Each tile is so read once for 192 queries. The scores of the next tile are
under way while those of this one become weights, and while the values of the one before are multiplied.

The prefix is divided among programs; the last piece is followed by the tails and own tokens of the program's
candidates. Pieces are cut so that these come out even.
"""

from __future__ import annotations

import math

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from alpamayo_rt.kernels.attention.scratch import UNIT, UNITS, ExpertScratch
from alpamayo_rt.kernels.attention.triton_shared import combine

# Triton 3.6 has the second name, 3.9 the first.
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
_store_wait = tma.store_wait

_TILE = 64
"""Cached tokens that are fetched together."""
_STAGES = 3
"""Tiles under way: with the queries and the results, what a multiprocessor has room for."""
_TYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@gluon.jit
def _start_the_next():
    """Let the next kernel start early; it waits for this one's result."""
    gl.inline_asm_elementwise(
        "griddepcontrol.launch_dependents; mov.u32 $0, 0;", "=r", [], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _wait_for_the_kernel_before():
    """Until all that kernels before have written can be read."""
    gl.inline_asm_elementwise(
        "griddepcontrol.wait; mov.u32 $0, 0;", "=r", [], dtype=gl.int32, is_pure=False, pack=1
    )


@gluon.jit
def _scores(queries, keys, LAYOUT: gl.constexpr):
    """Products of a unit's queries with a tile's keys, under way."""
    rows: gl.constexpr = queries.shape[0]
    columns: gl.constexpr = keys.shape[0]
    zeros = gl.zeros([rows, columns], gl.float32, layout=LAYOUT)
    return warpgroup_mma(queries, keys.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _weigh(scores, end, largest, total, scale, MASKED: gl.constexpr, LAYOUT: gl.constexpr):
    """Weights of a tile, of whose tokens `end` count, and by how much those before fade."""
    if MASKED:
        columns: gl.constexpr = scores.shape[1]
        column = gl.arange(0, columns, layout=gl.SliceLayout(0, LAYOUT))
        scores = gl.where((column < end)[None, :], scores, float("-inf"))
    new = gl.maximum(largest, gl.max(scores, 1) * scale)
    weights = gl.exp2(scores * scale - new[:, None])
    fade = gl.exp2(largest - new)
    return weights, fade, new, total * fade + gl.sum(weights, 1)


@gluon.jit
def _faded(mixed, fade, LAYOUT: gl.constexpr):
    return mixed * gl.convert_layout(fade, gl.SliceLayout(1, LAYOUT))[:, None]


@gluon.jit
def _factor(weights, values, LAYOUT: gl.constexpr):
    """Weights as the left factor of their product with the values."""
    return gl.convert_layout(weights.to(values.dtype), gl.DotOperandLayout(0, LAYOUT, 2))


@gluon.jit
def _attend_in_part(
    queries, keys, values, end, largest, total, mixed, scale, S_LAYOUT: gl.constexpr, O_LAYOUT: gl.constexpr
):
    """Take the first `end` tokens of a tile into the running softmax."""
    scores = warpgroup_mma_wait(0, deps=(_scores(queries, keys, S_LAYOUT),))
    weights, fade, largest, total = _weigh(scores, end, largest, total, scale, True, S_LAYOUT)
    # The values behind may be anything, and zero times not a number is not zero. All units write the same.
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    held = values.load(flat)
    rows: gl.constexpr = values.shape[0]
    row = gl.arange(0, rows, layout=gl.SliceLayout(1, flat))
    values.store(gl.where((row < end)[:, None], held, gl.zeros_like(held)))
    fence_async_shared()
    product = warpgroup_mma(
        _factor(weights, values, O_LAYOUT), values, _faded(mixed, fade, O_LAYOUT), is_async=True
    )
    return largest, total, warpgroup_mma_wait(0, deps=(product,))


@gluon.jit
def _fetch(keys, values, row, column, k_room, v_room, full, empty, n, STAGES: gl.constexpr):
    """Ask for the n-th tile, when the place it goes to has been given back."""
    stage = n % STAGES
    mbarrier.wait(empty.index(stage), ((n // STAGES) & 1) ^ 1)
    done = full.index(stage)
    mbarrier.expect(done, keys.block_type.nbytes + values.block_type.nbytes)
    _load(keys, [row, column], done, k_room.index(stage))
    _load(values, [row, column], done, v_room.index(stage))
    return n + 1


@gluon.jit
def _produce(
    q, keys, values, own_keys, own_values, tail_sequence, tail_length,
    q_room, k_room, v_room, asked, full, empty, first, end, tail_start, tail_room, capacity,
    waypoints, tile, kv_head, split, first_candidate, last_candidate,
    GROUP: gl.constexpr, SPLITS: gl.constexpr, MEMBERS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The one warp that fetches."""
    ROWS: gl.constexpr = q.block_type.shape[0]
    BLOCK_N: gl.constexpr = keys.block_type.shape[0]
    DIM: gl.constexpr = keys.block_type.shape[1]
    n = 0
    head = kv_head * capacity
    # The prefix has long been there. Queries, and the candidates' own tokens, are what the kernel before makes.
    at_once = gl.minimum(first + STAGES, end)
    for block in range(first, at_once):
        n = _fetch(keys, values, head + block * BLOCK_N, 0, k_room, v_room, full, empty, n, STAGES)
    _wait_for_the_kernel_before()
    per_head = waypoints // ROWS
    mbarrier.expect(asked, MEMBERS * q.block_type.nbytes)
    for i in gl.static_range(MEMBERS):
        unit = tile * MEMBERS + i
        column = (kv_head * GROUP + unit // per_head % GROUP) * DIM
        # Units behind the last candidate are filled with zeros.
        row = unit // (per_head * GROUP) * waypoints + unit % per_head * ROWS
        _load(q, [row, column], asked, q_room.index(i))
    for block in range(at_once, end):
        n = _fetch(keys, values, head + block * BLOCK_N, 0, k_room, v_room, full, empty, n, STAGES)
    if split == SPLITS - 1:
        for candidate in range(first_candidate, last_candidate + 1):
            start = head + tail_start + gl.load(tail_sequence + candidate).to(gl.int32) * tail_room
            for at in range(0, gl.load(tail_length + candidate).to(gl.int32), BLOCK_N):
                n = _fetch(keys, values, start + at, 0, k_room, v_room, full, empty, n, STAGES)
            for at in range(0, waypoints, BLOCK_N):
                row = candidate * waypoints + at
                n = _fetch(own_keys, own_values, row, kv_head * DIM, k_room, v_room, full, empty, n, STAGES)


@gluon.jit
def _consume(
    given,
    MEMBER: gl.constexpr, MEMBERS: gl.constexpr, GROUP: gl.constexpr, SPLITS: gl.constexpr,
    DIM: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The warps of one unit."""
    parts, log_sums, q_room, k_room, v_room, out_room, asked, full, empty = given[0]
    length, first, end, private, waypoints, heads, tokens, candidates, scale = given[1]
    kv_head, split, tile, first_candidate, last_candidate = given[2]
    tails = given[3]
    rows: gl.constexpr = q_room.shape[1]
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    per_head = waypoints // rows
    unit = tile * MEMBERS + MEMBER
    candidate = unit // (per_head * GROUP)
    head = kv_head * GROUP + unit // per_head % GROUP
    token = candidate * waypoints + unit % per_head * rows
    queries = q_room.index(MEMBER)
    largest = gl.full([rows], float("-inf"), gl.float32, layout=gl.SliceLayout(1, S_LAYOUT))
    total = gl.zeros([rows], gl.float32, layout=gl.SliceLayout(1, S_LAYOUT))
    mixed = gl.zeros([rows, DIM], gl.float32, layout=O_LAYOUT)
    mbarrier.wait(asked, 0)
    n = 0
    whole = gl.minimum(end, length // BLOCK_N)
    partial = gl.where((end > whole) & (first <= whole), 1, 0)
    if first < whole:
        mbarrier.wait(full.index(0), 0)
        scores = warpgroup_mma_wait(0, deps=(_scores(queries, k_room.index(0), S_LAYOUT),))
        weights, fade, largest, total = _weigh(scores, BLOCK_N, largest, total, scale, False, S_LAYOUT)
        factor = _factor(weights, v_room, O_LAYOUT)
        for _ in range(first + 1, whole):
            stage, following = n % STAGES, (n + 1) % STAGES
            mbarrier.wait(full.index(following), ((n + 1) // STAGES) & 1)
            next_scores = _scores(queries, k_room.index(following), S_LAYOUT)
            product = warpgroup_mma(factor, v_room.index(stage), mixed, is_async=True)
            scores = warpgroup_mma_wait(1, deps=(next_scores,))
            weights, fade, largest, total = _weigh(scores, BLOCK_N, largest, total, scale, False, S_LAYOUT)
            mixed = warpgroup_mma_wait(0, deps=(product,))
            mbarrier.arrive(empty.index(stage), count=1)
            mixed = _faded(mixed, fade, O_LAYOUT)
            factor = _factor(weights, v_room, O_LAYOUT)
            n += 1
        product = warpgroup_mma(factor, v_room.index(n % STAGES), mixed, is_async=True)
        mixed = warpgroup_mma_wait(0, deps=(product,))
        mbarrier.arrive(empty.index(n % STAGES), count=1)
        n += 1
    # In part: the end of the prefix, then the private tiles of all candidates of this program.
    for i in range(0, partial + private):
        stage = n % STAGES
        mbarrier.wait(full.index(stage), (n // STAGES) & 1)
        seen = gl.where(i < partial, length - whole * BLOCK_N, 0)
        before = partial
        for member in gl.static_range(MEMBERS):
            # Where this tile lies among those of each candidate; only its own are seen.
            other = first_candidate + member
            tail = tails[member]
            of_tail = gl.cdiv(tail, BLOCK_N)
            at = i - before
            left = gl.where(at < of_tail, tail - at * BLOCK_N, waypoints - (at - of_tail) * BLOCK_N)
            count = gl.where(other <= last_candidate, of_tail + gl.cdiv(waypoints, BLOCK_N), 0)
            seen = gl.where((other == candidate) & (at >= 0) & (at < count), left, seen)
            before += count
        if seen > 0:
            largest, total, mixed = _attend_in_part(
                queries, k_room.index(stage), v_room.index(stage), seen,
                largest, total, mixed, scale, S_LAYOUT, O_LAYOUT,
            )  # fmt: skip
        mbarrier.arrive(empty.index(stage), count=1)
        n += 1
    if candidate < candidates:
        nothing = total == 0.0
        total = gl.where(nothing, 1.0, total)
        log_sum = gl.where(nothing, float("-inf"), largest + gl.log2(total))
        at = split * tokens + token + gl.arange(0, rows, layout=gl.SliceLayout(1, S_LAYOUT))
        gl.store(log_sums + at * heads + head, log_sum)
        average = mixed / gl.convert_layout(total, gl.SliceLayout(1, O_LAYOUT))[:, None]
        made = out_room.index(MEMBER)
        made.store(average.to(parts.dtype))
        fence_async_shared()
        _store(parts, [split * tokens + token, head * DIM], made)
        _store_wait(0)


@gluon.jit
def _expert(
    q, keys, values, own_keys, own_values, prefix_length, tail_sequence, tail_length, parts, log_sums,
    tail_start, tail_room, capacity, tokens, waypoints, heads, candidates, scale,
    GROUP: gl.constexpr, SPLITS: gl.constexpr, STAGES: gl.constexpr, MEMBERS: gl.constexpr,
):  # fmt: skip
    _start_the_next()
    tile, kv_head, split = gl.program_id(0), gl.program_id(1), gl.program_id(2)
    ROWS: gl.constexpr = q.block_type.shape[0]
    BLOCK_N: gl.constexpr = keys.block_type.shape[0]
    DIM: gl.constexpr = keys.block_type.shape[1]
    q_room = gl.allocate_shared_memory(q.dtype, [MEMBERS, ROWS, DIM], q.layout)
    k_room = gl.allocate_shared_memory(keys.dtype, [STAGES, BLOCK_N, DIM], keys.layout)
    v_room = gl.allocate_shared_memory(values.dtype, [STAGES, BLOCK_N, DIM], values.layout)
    out_room = gl.allocate_shared_memory(parts.dtype, [MEMBERS, ROWS, DIM], parts.layout)
    asked = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(asked, count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=MEMBERS)
    fence_async_shared()
    per_candidate = waypoints // ROWS * GROUP
    first_candidate = tile * MEMBERS // per_candidate
    last_candidate = gl.minimum((tile * MEMBERS + MEMBERS - 1) // per_candidate, candidates - 1)
    length = gl.load(prefix_length).to(gl.int32)
    # The private tokens take whole tiles each, as many as the last piece is shorter by.
    tails = (
        gl.load(tail_length + first_candidate).to(gl.int32),
        gl.load(tail_length + gl.minimum(first_candidate + 1, last_candidate)).to(gl.int32),
        gl.load(tail_length + gl.minimum(first_candidate + 2, last_candidate)).to(gl.int32),
    )
    private = (last_candidate - first_candidate + 1) * gl.cdiv(waypoints, BLOCK_N)
    for i in gl.static_range(MEMBERS):
        private += gl.where(first_candidate + i <= last_candidate, gl.cdiv(tails[i], BLOCK_N), 0)
    tiles = gl.cdiv(length, BLOCK_N)
    piece = gl.cdiv(tiles + private, SPLITS)
    first = gl.minimum(split * piece, tiles)
    end = gl.minimum(first + piece, tiles)
    if split == SPLITS - 1:
        end = tiles
    else:
        private = 0
    given = (
        (parts, log_sums, q_room, k_room, v_room, out_room, asked, full, empty),
        (length, first, end, private, waypoints, heads, tokens, candidates, scale),
        (kv_head, split, tile, first_candidate, last_candidate),
        tails,
    )
    gl.warp_specialize(
        [
            (_consume, (given, 0, MEMBERS, GROUP, SPLITS, DIM, BLOCK_N, STAGES)),
            (_consume, (given, 1, MEMBERS, GROUP, SPLITS, DIM, BLOCK_N, STAGES)),
            (_consume, (given, 2, MEMBERS, GROUP, SPLITS, DIM, BLOCK_N, STAGES)),
            (
                _produce,
                (
                    q, keys, values, own_keys, own_values, tail_sequence, tail_length,
                    q_room, k_room, v_room, asked, full, empty, first, end, tail_start, tail_room, capacity,
                    waypoints, tile, kv_head, split, first_candidate, last_candidate,
                    GROUP, SPLITS, MEMBERS, STAGES,
                ),
            ),
        ],
        [4, 4, 1],
        [160, 160, 24],
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
    """See `operations.expert_attention`; where `suits` says so."""
    candidates, waypoints, heads, dim = q.shape
    kv_heads, capacity = keys.shape[:2]
    group, tokens = heads // kv_heads, candidates * waypoints
    parts, kind = scratch.parts, _TYPES[q.dtype]

    def tiles(rows: torch.Tensor, height: int, kind: gl.dtype) -> TensorDescriptor:
        layout = gl.NVMMASharedLayout.get_default_for([height, dim], kind)
        return TensorDescriptor.from_tensor(rows, [height, dim], layout)

    cached = [tiles(part.view(kv_heads * capacity, dim), _TILE, kind) for part in (keys, values)]
    own = [tiles(part.view(tokens, kv_heads * dim), _TILE, kind) for part in (own_keys, own_values)]
    programs = -(-tokens * group // (UNIT * UNITS))
    _expert[(programs, kv_heads, len(parts))](
        tiles(q.view(tokens, heads * dim), UNIT, kind), *cached, *own, prefix_length, tail_sequence,
        tail_length, tiles(parts.view(-1, heads * dim), UNIT, gl.float16), scratch.log_sums,
        tail_start, tail_room, capacity, tokens, waypoints, heads, candidates, scale * math.log2(math.e),
        GROUP=group, SPLITS=len(parts), STAGES=_STAGES, MEMBERS=UNITS, num_warps=4, launch_pdl=True,
    )  # fmt: skip
    combine(parts, scratch.log_sums, out)

# SPDX-License-Identifier: Apache-2.0
"""What both attention kernels do with a tile of cached tokens, and with the parts at the end.

Scores are kept to the base 2, with log₂ e in `scale`. A part is stored as its own softmax average and the
logarithm of its sum of weights, −inf where it saw nothing.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps

_FEW_PARTS = 8
"""So many are read at once, whether or not they have seen anything."""


@triton.jit
def product(a, b, start, PRECISION: tl.constexpr):
    """a · b + start, in float32."""
    if PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), start, input_precision="ieee")
    else:
        return tl.dot(a, b, start, input_precision=PRECISION)


@triton.jit
def attend_tile(
    q,
    keys,
    values,
    key_stride,
    value_stride,
    first,
    end,
    largest,
    total,
    mixed,
    scale,
    MASKED: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Take tokens [first, first + BLOCK_N), where MASKED those below `end`, into the running softmax."""
    # Offsets within one head fit into 32 bits: a head of 2³¹ elements would be a cache of 16 million tokens.
    token = first + tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_D)
    here = token < end
    key_at = keys + token[:, None] * key_stride + column[None, :]
    value_at = values + token[:, None] * value_stride + column[None, :]
    if DIM != BLOCK_D:
        inside = here[:, None] & (column < DIM)[None, :]
        k = tl.load(key_at, mask=inside, other=0.0)
        v = tl.load(value_at, mask=inside, other=0.0)
    elif MASKED:
        k = tl.load(key_at, mask=here[:, None], other=0.0)
        v = tl.load(value_at, mask=here[:, None], other=0.0)
    else:
        k = tl.load(key_at)
        v = tl.load(value_at)
    scores = product(q, tl.trans(k), tl.zeros([q.shape[0], BLOCK_N], tl.float32), PRECISION)
    if MASKED:
        scores = tl.where(here[None, :], scores, float("-inf"))
    new = tl.maximum(largest, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - new[:, None])
    fade = tl.exp2(largest - new)
    total = total * fade + tl.sum(weights, 1)
    mixed = mixed * fade[:, None]
    mixed = product(weights.to(v.dtype), v, mixed, PRECISION)
    return new, total, mixed


@triton.jit
def fetch_ahead(tokens, stride, first, end, DIM: tl.constexpr, BLOCK_N: tl.constexpr):
    """Bring tokens [first, end) into the second-level cache, without waiting for them."""
    line: tl.constexpr = 1024 // tokens.dtype.element_ty.primitive_bitwidth
    lines: tl.constexpr = (DIM + line - 1) // line
    if lines & (lines - 1) == 0:
        for n in range(first, end, BLOCK_N):
            token = tl.minimum(n + tl.arange(0, BLOCK_N), end - 1)
            at = tokens + token[:, None] * stride + tl.arange(0, lines)[None, :] * line
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at.to(tl.int64)],
                dtype=tl.int32, is_pure=False, pack=1,
            )  # fmt: skip


@triton.jit
def store_part(
    parts,
    log_sums,
    row,
    inside,
    largest,
    total,
    mixed,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`parts` and `log_sums` point at this part's first row."""
    column = tl.arange(0, BLOCK_D)
    empty = total == 0.0
    average = mixed / tl.where(empty, 1.0, total)[:, None]
    log_sum = tl.where(empty, float("-inf"), largest + tl.log2(tl.where(empty, 1.0, total)))
    here = inside[:, None] & (column < DIM)[None, :]
    at = row.to(tl.int64)[:, None] * DIM + column[None, :]
    tl.store(parts + at, average.to(parts.dtype.element_ty), mask=here)
    tl.store(log_sums + row, log_sum, mask=inside)


@triton.jit
def _combine(
    parts,
    log_sums,
    out,
    rows,
    PARTS: tl.constexpr,
    SKIP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Sum all parts of some rows, in their order; SKIP: do not read those that saw nothing."""
    after_the_kernel_before(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    column = tl.arange(0, BLOCK_D)
    here = inside[:, None] & (column < DIM)[None, :]
    at = row.to(tl.int64)[:, None] * DIM + column[None, :]
    largest = tl.full(row.shape, float("-inf"), tl.float32)
    for part in tl.static_range(PARTS):
        largest = tl.maximum(largest, tl.load(log_sums + part * rows + row, mask=inside, other=0.0))
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.zeros(row.shape, tl.float32)
    mixed = tl.zeros(at.shape, tl.float32)
    for part in tl.static_range(PARTS):
        log_sum = tl.load(log_sums + part * rows + row, mask=inside, other=0.0)
        weight = tl.exp2(log_sum - largest)
        seen = here & (log_sum > float("-inf"))[:, None]
        place = parts + part * rows.to(tl.int64) * DIM + at
        if SKIP:
            average = tl.load(place, mask=seen, other=0.0)
        else:
            # A read that need not wait for the sum's.
            average = tl.where(seen, tl.load(place, mask=here, other=0.0), 0.0)
        total += weight
        mixed += weight[:, None] * average.to(tl.float32)
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=here)


def combine(parts: torch.Tensor, log_sums: torch.Tensor, out: torch.Tensor) -> None:
    """Parts (P, N, d) and their sums (P, N) → out (N, d) in any shape, contiguous."""
    count, rows, dim = parts.shape
    tile = 1 if rows <= 1024 else 4
    overlap = overlaps(out)
    _combine[(triton.cdiv(rows, tile),)](
        parts, log_sums, out, rows, PARTS=count, SKIP=count > _FEW_PARTS, DIM=dim, BLOCK_D=padded(dim),
        ROWS=tile, OVERLAP=overlap, num_warps=tile, launch_pdl=overlap,
    )  # fmt: skip


def padded(size: int) -> int:
    """The power of two that a matrix unit takes: at least 16."""
    return max(16, triton.next_power_of_2(size))


def dot_precision(tensor: torch.Tensor) -> str:
    """Float32 products are to be float32, not the matrix unit's own shorter format."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "widened"  # the interpreter multiplies bfloat16 as if it were integers
    return "ieee" if tensor.dtype == torch.float32 else "tf32"

# SPDX-License-Identifier: Apache-2.0
"""The kernel for one row: multiply and add, 16 bytes of weights a thread and load.

A thread owns chunks of 16 bytes: 8 inputs in 16 bits, 16 in e4m3, 32 in int4. The inputs' own vector is read in
pieces of 8 (16 bytes again), and the chunk is taken apart to match, so that no value changes its thread, as
long as a tile has a chunk for each thread. Tiles are (chunks, rows, elements): Triton lays threads along the
first dimension where it has the choice.
"""

from __future__ import annotations

import triton
import triton.language as tl

from alpamayo_rt.kernels.skinny.triton_parts import (
    after_the_kernel_before,
    fetch_ahead,
    finish,
    rows_of_program,
    sixteen_more,
)


@triton.jit
def _tile(weight, row, k0, K: tl.constexpr, CHUNK: tl.constexpr, BLOCK_K: tl.constexpr):
    """Stored weights (chunks, rows, elements of a chunk)."""
    packed: tl.constexpr = CHUNK == 32
    stored: tl.constexpr = 16 if packed else CHUNK
    length: tl.constexpr = (K + 1) // 2 if packed else K
    chunk = k0 // CHUNK + tl.arange(0, BLOCK_K // CHUNK)
    column = chunk[:, None, None] * stored + tl.arange(0, stored)[None, None, :]
    place = weight + row[None, :, None] * length + column
    if K % BLOCK_K == 0:
        return tl.load(place, eviction_policy="evict_first")
    else:
        return tl.load(place, mask=column < length, other=0.0)


@triton.jit
def _piece(inputs, norm, k0, OFFSET: tl.constexpr, K: tl.constexpr, CHUNK: tl.constexpr,
           BLOCK_K: tl.constexpr, NORM: tl.constexpr):  # fmt: skip
    """Eight inputs of each chunk, (chunks, 1, 8) float32, times the norm's weight; sums of their squares."""
    k = k0 + OFFSET + tl.arange(0, BLOCK_K // CHUNK)[:, None, None] * CHUNK + tl.arange(0, 8)[None, None, :]
    if K % BLOCK_K == 0:
        value = tl.load(inputs + k).to(tl.float32)
    else:
        value = tl.load(inputs + k, mask=k < K, other=0.0).to(tl.float32)
    squares = tl.sum(value * value, 2)
    if NORM:
        if K % BLOCK_K == 0:
            value *= tl.load(norm + k).to(tl.float32)
        else:
            value *= tl.load(norm + k, mask=k < K, other=0.0).to(tl.float32)
    return value, squares


@triton.jit
def _halves(w, HALF: tl.constexpr):
    """(chunks, rows, 2 · HALF) → two of (chunks, rows, HALF)."""
    return tl.split(tl.permute(tl.reshape(w, (w.shape[0], w.shape[1], 2, HALF)), (0, 1, 3, 2)))


@triton.jit
def _times(w, value):
    return tl.sum(w.to(tl.float32) * value, 2)


@triton.jit
def _sums(stored, inputs, norm, scale, zero, row, k0, K: tl.constexpr, CHUNK: tl.constexpr,
          BLOCK_K: tl.constexpr, NORM: tl.constexpr):  # fmt: skip
    """A tile's share of the product (chunks, rows) and of the sum of squares (chunks, 1)."""
    value, squares = _piece(inputs, norm, k0, 0, K, CHUNK, BLOCK_K, NORM)
    if CHUNK == 8:
        product = _times(stored, value)
    elif CHUNK == 16:
        low, high = _halves(stored, 8)
        product = _times(low, value)
        value, more = _piece(inputs, norm, k0, 8, K, CHUNK, BLOCK_K, NORM)
        product, squares = product + _times(high, value), squares + more
    else:
        # A chunk has one scale and zero point: Σ (code − zero) · x · scale = (Σ code · x − zero · Σ x) · scale.
        # All codes and zero points are 16 more here.
        codes = tl.join(stored & 15, stored >> 4)
        low, high = _halves(sixteen_more(tl.reshape(codes, (codes.shape[0], codes.shape[1], 32))), 16)
        a, b = _halves(low, 8)
        c, d = _halves(high, 8)
        product, total = _times(a, value), tl.sum(value, 2)
        value, more = _piece(inputs, norm, k0, 8, K, CHUNK, BLOCK_K, NORM)
        product, total, squares = product + _times(b, value), total + tl.sum(value, 2), squares + more
        value, more = _piece(inputs, norm, k0, 16, K, CHUNK, BLOCK_K, NORM)
        product, total, squares = product + _times(c, value), total + tl.sum(value, 2), squares + more
        value, more = _piece(inputs, norm, k0, 24, K, CHUNK, BLOCK_K, NORM)
        product, total, squares = product + _times(d, value), total + tl.sum(value, 2), squares + more
        groups: tl.constexpr = (K + 127) // 128
        group = tl.minimum((k0 + tl.arange(0, BLOCK_K // CHUNK) * CHUNK) // 128, groups - 1)
        place = row[None, :] * groups + group[:, None]
        product -= sixteen_more(tl.load(zero + place)) * total
        product *= tl.load(scale + place)
    return product, squares


@triton.jit
def one_row(
    inputs,
    norm,
    weight,
    scale,
    zero,
    out,
    outputs,
    eps,
    K: tl.constexpr,
    KIND: tl.constexpr,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPTH: tl.constexpr,
    LINES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """A program has BLOCK_N outputs and all K inputs."""
    CHUNK: tl.constexpr = 8 if KIND == "float" else 16 if KIND == "e4m3" else 32
    row = rows_of_program(outputs, SWIGLU, BLOCK_N)
    # The weights depend on no other kernel: the first ones are under way while that one still runs.
    stored = _tile(weight, row, 0, K, CHUNK, BLOCK_K)
    fetch_ahead(weight, row, (K + 1) // 2 if KIND == "int4" else K, LINES)
    after_the_kernel_before(OVERLAP)
    product, squares = _sums(stored, inputs, norm, scale, zero, row, 0, K, CHUNK, BLOCK_K, NORM)
    for k0 in tl.range(BLOCK_K, K, BLOCK_K, loop_unroll_factor=DEPTH):
        stored = _tile(weight, row, k0, K, CHUNK, BLOCK_K)
        sums, more = _sums(stored, inputs, norm, scale, zero, row, k0, K, CHUNK, BLOCK_K, NORM)
        product += sums
        squares += more
    y = tl.sum(product, 0)
    if NORM:
        y *= tl.rsqrt(tl.sum(squares) / K + eps)
    if KIND == "e4m3":
        y *= tl.load(scale + row)
    finish(y[:, None], out, 1, outputs, SWIGLU, ADD, BLOCK_N, 1)

# SPDX-License-Identifier: Apache-2.0
"""The kernel for 2 to 16 rows: the tensor cores, with the weights as their tall operand.

The inputs are padded to 8 or 16 columns. A matrix of 4096 rows gives too few programs to fill a GPU unless each
has few rows, so the warps of a program share its rows and split K (a batched product), and add up at the end.
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
def _inputs(inputs, norm, r, rows, k, K: tl.constexpr, STEP: tl.constexpr, NORM: tl.constexpr):
    """Inputs at r and k, which broadcast, float32, times the norm's weight; and their squares."""
    if K % STEP == 0:
        value = tl.load(inputs + r * K + k, mask=r < rows, other=0.0).to(tl.float32)
    else:
        value = tl.load(inputs + r * K + k, mask=(r < rows) & (k < K), other=0.0).to(tl.float32)
    squares = value * value
    if NORM:
        if K % STEP == 0:
            value *= tl.load(norm + k).to(tl.float32)
        else:
            value *= tl.load(norm + k, mask=k < K, other=0.0).to(tl.float32)
    return value, squares


@triton.jit
def _stored(weight, row, column, LENGTH: tl.constexpr, EVEN: tl.constexpr):
    place = weight + row * LENGTH + column
    if EVEN:
        return tl.load(place, eviction_policy="evict_first")
    else:
        return tl.load(place, mask=column < LENGTH, other=0.0)


@triton.jit
def few_rows(
    inputs,
    norm,
    weight,
    scale,
    zero,
    out,
    rows,
    outputs,
    eps,
    K: tl.constexpr,
    KIND: tl.constexpr,
    NORM: tl.constexpr,
    SWIGLU: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    DEPTH: tl.constexpr,
    LINES: tl.constexpr,
    TENSOR_CORES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """A program has BLOCK_N outputs of all rows and all K inputs, SPLIT · BLOCK_K at a time."""
    # Half has too few exponents for a residual stream that is not normed yet, and the interpreter cannot
    # multiply bfloat16: both take float32, the latter of rounded values.
    given: tl.constexpr = tl.bfloat16 if inputs.dtype.element_ty == tl.bfloat16 else tl.float32
    kind: tl.constexpr = given if TENSOR_CORES else tl.float32
    STEP: tl.constexpr = SPLIT * BLOCK_K
    EVEN: tl.constexpr = K % STEP == 0
    GROUPS: tl.constexpr = (K + 127) // 128
    WIDTH: tl.constexpr = BLOCK_K // 2 if KIND == "int4" else BLOCK_K  # stored columns of a tile
    PITCH: tl.constexpr = 2 if KIND == "int4" else 1  # inputs in one of them
    LENGTH: tl.constexpr = (K + PITCH - 1) // PITCH
    m = rows_of_program(outputs, SWIGLU, BLOCK_N)
    r = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    if SPLIT == 1:
        m_tile, w_column, x_column, r_tile = m[:, None], column[None, :], column[:, None], r[None, :]
        product = tl.zeros((BLOCK_N * (1 + SWIGLU), ROWS), tl.float32)
        squares = tl.zeros((WIDTH, ROWS), tl.float32)
        group = 0
    else:
        part = tl.arange(0, SPLIT)[:, None, None]
        m_tile, r_tile = m[None, :, None], r[None, None, :]
        w_column = part * WIDTH + column[None, None, :]
        x_column = part * WIDTH + column[None, :, None]
        product = tl.zeros((SPLIT, BLOCK_N * (1 + SWIGLU), ROWS), tl.float32)
        squares = tl.zeros((SPLIT, WIDTH, ROWS), tl.float32)
        group = part
    fetch_ahead(weight, m, LENGTH, LINES)
    after_the_kernel_before(OVERLAP)
    for k0 in range(0, K, STEP):
        stored = _stored(weight, m_tile, k0 // PITCH + w_column, LENGTH, EVEN)
        value, more = _inputs(inputs, norm, r_tile, rows, k0 + x_column * PITCH, K, STEP, NORM)
        squares += more
        if KIND == "int4":
            # A tile is one group of 128 inputs: the even ones in the low bits, the odd ones in the high bits.
            place = m_tile * GROUPS + tl.minimum(k0 // BLOCK_K + group, GROUPS - 1)
            unit, origin = tl.load(scale + place), sixteen_more(tl.load(zero + place))
            low = (sixteen_more(stored & 15) - origin) * unit
            high = (sixteen_more(stored >> 4) - origin) * unit
            product = tl.dot(low.to(given).to(kind), value.to(given).to(kind), product, input_precision="ieee")
            value, more = _inputs(inputs, norm, r_tile, rows, k0 + x_column * PITCH + 1, K, STEP, NORM)
            squares += more
            product = tl.dot(high.to(given).to(kind), value.to(given).to(kind), product, input_precision="ieee")
        else:
            if KIND == "e4m3":
                # On the way of the compiler's own choice, half to bfloat16, a GPU converts a quarter as many.
                stored = stored.to(tl.float16).to(tl.float32)
            product = tl.dot(stored.to(kind), value.to(given).to(kind), product, input_precision="ieee")
    if SPLIT == 1:
        y, total = product, tl.sum(squares, 0)
    else:
        y, total = tl.sum(product, 0), tl.sum(tl.sum(squares, 0), 0)
    if NORM:
        y *= tl.rsqrt(total / K + eps)[None, :]
    if KIND == "e4m3":
        y *= tl.load(scale + m)[:, None]
    finish(y, out, rows, outputs, SWIGLU, ADD, BLOCK_N, ROWS)

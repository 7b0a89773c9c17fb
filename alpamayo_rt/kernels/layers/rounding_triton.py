# SPDX-License-Identifier: Apache-2.0
"""Rounding to e4m3 in Triton kernels: of rows in registers, and of matrices; see `layers.rounding`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.layers.rounding import Gelu
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps
from alpamayo_rt.kernels.tiles import two_parts

_E4M3_MAX = tl.constexpr(448.0)
_SMALLEST_SCALE = tl.constexpr(2.0**-100)


@triton.jit
def scale_of(largest, input_scale, STATIC: tl.constexpr):
    """The scale of a row, or of many, from the largest magnitude; the fixed one is one number for all."""
    if STATIC:
        return tl.load(input_scale)
    else:
        return tl.maximum(largest / _E4M3_MAX, _SMALLEST_SCALE)


@triton.jit
def as_bytes(scaled, CLAMP: tl.constexpr):
    """The bytes of what is divided already; the interpreter cannot store e4m3.

    A GPU's conversion saturates by itself, the interpreter's does not.
    """
    if CLAMP:
        scaled = tl.minimum(tl.maximum(scaled, -_E4M3_MAX), _E4M3_MAX)
    return scaled.to(tl.float8e4nv).to(tl.uint8, bitcast=True)


@triton.jit
def store_row(value, here, at, out, out_scale, input_scale, row, QUANTIZE: tl.constexpr, STATIC: tl.constexpr):
    """A whole row: `value` is float32 holding numbers of the stream's type."""
    if QUANTIZE:
        scale = scale_of(tl.max(tl.abs(value), 0), input_scale, STATIC)
        tl.store(out + at, as_bytes(value / scale, True), mask=here)
        tl.store(out_scale + row, scale)
    else:
        tl.store(out + at, value.to(out.dtype.element_ty), mask=here)


@triton.jit
def _part(
    x, row, rows, n, START: tl.constexpr, WIDTH: tl.constexpr, EXACT: tl.constexpr, GELU: tl.constexpr
):  # fmt: skip
    """Columns [START, START + WIDTH) of some rows, activated; 0 where there are none."""
    column = START + tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & ((column < n) | EXACT)[None, :]
    value = tl.load(x + row[:, None] * n + column[None, :], mask=here, other=0.0).to(tl.float32)
    if GELU == "tanh":
        # x · (1 + tanh u) / 2 = x / (1 + exp(-2 u)), u = √(2 / π) · (x + 0.044715 x³); -2 / ln 2 is inside.
        # The square of an inverse root is few instructions, a division many.
        inverse = tl.rsqrt(1 + tl.exp2(value * (-2.302208198 - 0.102943240 * value * value)))
        value = (value * inverse * inverse).to(x.dtype.element_ty).to(tl.float32)
    if GELU == "none":
        value = (0.5 * value * (1 + tl.erf(0.70710678 * value))).to(x.dtype.element_ty).to(tl.float32)
    return value


@triton.jit
def store_part(
    value, inverse, out, row, rows, n, START: tl.constexpr, WIDTH: tl.constexpr, EXACT: tl.constexpr,
    STATIC: tl.constexpr,
):  # fmt: skip
    """Columns [START, START + WIDTH) of some rows over their scales, as bytes."""
    column = START + tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & ((column < n) | EXACT)[None, :]
    # Without a fixed scale nothing is beyond the range.
    tl.store(out + row[:, None] * n + column[None, :], as_bytes(value * inverse[:, None], STATIC), mask=here)


@triton.jit
def _quantize(
    x, out, out_scale, input_scale, rows, n, GELU: tl.constexpr, STATIC: tl.constexpr, ROWS: tl.constexpr,
    MAIN: tl.constexpr, REST: tl.constexpr, MAIN_EXACT: tl.constexpr, REST_EXACT: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a program, in a long and a short part: 4,304 columns take 4,096 + 256 and not 8,192."""
    after_the_kernel_before(OVERLAP)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    main = _part(x, row, rows, n, 0, MAIN, MAIN_EXACT, GELU)
    largest = tl.max(tl.abs(main), 1)
    if REST > 0:
        rest = _part(x, row, rows, n, MAIN, REST, REST_EXACT, GELU)
        largest = tl.maximum(largest, tl.max(tl.abs(rest), 1))
    scale = tl.where(row < rows, scale_of(largest, input_scale, STATIC), 1.0)
    tl.store(out_scale + row, scale, mask=row < rows)
    inverse = 1 / scale
    store_part(main, inverse, out, row, rows, n, 0, MAIN, MAIN_EXACT, STATIC)
    if REST > 0:
        store_part(rest, inverse, out, row, rows, n, MAIN, REST, REST_EXACT, STATIC)


def quantize(
    x: torch.Tensor,
    out: torch.Tensor,
    out_scale: torch.Tensor,
    input_scale: torch.Tensor | None,
    gelu: Gelu | None = None,
    launch: tuple[int, int] | None = None,
) -> None:
    """See `rounding.quantize`; `launch`: rows and, for long ones, warps of a program; None chooses."""
    rows, n = x.shape
    of_program, warps = launch or ((2, 1) if n < 2048 else (1, 4))
    main, rest = two_parts(n)
    overlap = overlaps(x)
    _quantize[(triton.cdiv(rows, of_program),)](
        x, stored_bytes(out), out_scale, input_scale, rows, n, GELU=gelu, STATIC=input_scale is not None,
        ROWS=of_program, MAIN=main, REST=rest, MAIN_EXACT=main <= n, REST_EXACT=main + rest == n,
        OVERLAP=overlap, num_warps=max(1, min(warps, of_program * main // 256)), launch_pdl=overlap,
    )  # fmt: skip


def stored_bytes(out: torch.Tensor) -> torch.Tensor:
    """What a kernel stores to where `out` may be e4m3."""
    return out.view(torch.uint8) if out.dtype == torch.float8_e4m3fn else out

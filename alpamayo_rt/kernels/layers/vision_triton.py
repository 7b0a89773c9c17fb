# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `layers.vision`; what they do stands at their twins there."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.layers.rounding_triton import scale_of, store_part, stored_bytes
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps
from alpamayo_rt.kernels.tiles import two_parts


@triton.jit
def _stream(
    x, delta, shift, row, rows, n, START: tl.constexpr, WIDTH: tl.constexpr, EXACT: tl.constexpr,
    ADD: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Columns [START, START + WIDTH) of x + delta + shift, float32; x + delta is stored."""
    column = START + tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & ((column < n) | EXACT)[None, :]
    at = row[:, None] * n + column[None, :]
    kind = x.dtype.element_ty
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    if ADD:
        value = (value + tl.load(delta + at, mask=here, other=0.0).to(tl.float32)).to(kind).to(tl.float32)
        tl.store(x + at, value.to(kind), mask=here)
    if SHIFT:
        value += tl.load(shift + column, mask=(column < n) | EXACT, other=0.0)[None, :]
    return value


@triton.jit
def _centred(value, mean, n, START: tl.constexpr, WIDTH: tl.constexpr, EXACT: tl.constexpr):
    centred = value - mean[:, None]
    if EXACT:
        return centred
    else:
        return tl.where((START + tl.arange(0, WIDTH) < n)[None, :], centred, 0.0)


@triton.jit
def _scaled(
    centred, scale, weight, bias, kind: tl.constexpr, n, START: tl.constexpr, WIDTH: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    """Columns of the norm, rounded to `kind`; 0 where there are none."""
    column = START + tl.arange(0, WIDTH)
    inside = (column < n) | EXACT
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    return (centred * scale[:, None] * w + b).to(kind)


@triton.jit
def _store(value, out, row, rows, n, START: tl.constexpr, WIDTH: tl.constexpr, EXACT: tl.constexpr):
    column = START + tl.arange(0, WIDTH)
    here = (row < rows)[:, None] & ((column < n) | EXACT)[None, :]
    tl.store(out + row[:, None] * n + column[None, :], value, mask=here)


@triton.jit
def _add_layer_norm(
    x, delta, weight, bias, out, shift, out_scale, input_scale, eps, rows, n, ADD: tl.constexpr,
    SHIFT: tl.constexpr, QUANTIZE: tl.constexpr, STATIC: tl.constexpr, ROWS: tl.constexpr, MAIN: tl.constexpr,
    REST: tl.constexpr, MAIN_EXACT: tl.constexpr, REST_EXACT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """ROWS rows of a program, in a long and a short part: 1,152 columns take 1,024 + 128 and not 2,048."""
    after_the_kernel_before(OVERLAP)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    main = _stream(x, delta, shift, row, rows, n, 0, MAIN, MAIN_EXACT, ADD, SHIFT)
    total = tl.sum(main, 1)
    if REST > 0:
        rest = _stream(x, delta, shift, row, rows, n, MAIN, REST, REST_EXACT, ADD, SHIFT)
        total += tl.sum(rest, 1)
    mean = total / n
    main = _centred(main, mean, n, 0, MAIN, MAIN_EXACT)
    squares = tl.sum(main * main, 1)
    if REST > 0:
        rest = _centred(rest, mean, n, MAIN, REST, REST_EXACT)
        squares += tl.sum(rest * rest, 1)
    scale = tl.rsqrt(squares / n + eps)
    kind = x.dtype.element_ty
    main = _scaled(main, scale, weight, bias, kind, n, 0, MAIN, MAIN_EXACT)
    if REST > 0:
        rest = _scaled(rest, scale, weight, bias, kind, n, MAIN, REST, REST_EXACT)
    if QUANTIZE:
        main = main.to(tl.float32)
        largest = tl.max(tl.abs(main), 1)
        if REST > 0:
            rest = rest.to(tl.float32)
            largest = tl.maximum(largest, tl.max(tl.abs(rest), 1))
        narrow = tl.where(row < rows, scale_of(largest, input_scale, STATIC), 1.0)
        tl.store(out_scale + row, narrow, mask=row < rows)
        store_part(main, 1 / narrow, out, row, rows, n, 0, MAIN, MAIN_EXACT, STATIC)
        if REST > 0:
            store_part(rest, 1 / narrow, out, row, rows, n, MAIN, REST, REST_EXACT, STATIC)
    else:
        _store(main, out, row, rows, n, 0, MAIN, MAIN_EXACT)
        if REST > 0:
            _store(rest, out, row, rows, n, MAIN, REST, REST_EXACT)


def add_layer_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    shift: torch.Tensor | None = None,
    out_scale: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    launch: tuple[int, int] | None = None,
) -> None:
    """See `vision.add_layer_norm`; `launch`: rows and, for long ones, warps of a program; None chooses."""
    rows, n = x.shape
    # One warp holds two short rows in registers; two of 2,048 columns would take half of all it may have.
    of_program, warps = launch or ((2, 1) if n < 2048 else (1, 4))
    main, rest = two_parts(n)
    overlap = overlaps(out)
    _add_layer_norm[(triton.cdiv(rows, of_program),)](
        x, delta, weight, bias, stored_bytes(out), shift, out_scale, input_scale, eps, rows, n,
        ADD=delta is not None, SHIFT=shift is not None, QUANTIZE=out_scale is not None,
        STATIC=input_scale is not None, ROWS=of_program, MAIN=main, REST=rest, MAIN_EXACT=main <= n,
        REST_EXACT=main + rest == n,
        OVERLAP=overlap, num_warps=max(1, min(warps, of_program * main // 256)), launch_pdl=overlap,
    )  # fmt: skip

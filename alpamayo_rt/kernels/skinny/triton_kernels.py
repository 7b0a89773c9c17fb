# SPDX-License-Identifier: Apache-2.0
"""Launches of the skinny kernels; what they do stands at their twins in `operations`.

Tensors on the `meta` device compile a kernel for the present GPU into Triton's cache and run nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.skinny import configurations
from alpamayo_rt.kernels.skinny.triton_few_rows import few_rows
from alpamayo_rt.kernels.skinny.triton_one_row import one_row
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps
from alpamayo_rt.kernels.skinny.weights import SkinnyWeight


def _launch(
    inputs: torch.Tensor,
    norm: torch.Tensor | None,
    eps: float,
    weight: SkinnyWeight,
    out: torch.Tensor,
    swiglu: bool = False,
    add: bool = False,
) -> None:
    rows, k = inputs.shape
    c = configurations.choose(rows, weight.kind, len(weight.values), k)
    on_gpu = out.device.type != "cpu"
    overlap = rows == 1 and overlaps(out)
    tensors = (inputs, norm, *weight, out)
    meaning = {"K": k, "KIND": weight.kind, "NORM": norm is not None, "SWIGLU": swiglu, "ADD": add}
    row_bytes = weight.values.shape[1] * weight.values.element_size()
    lines = triton.next_power_of_2(triton.cdiv(row_bytes, 128)) if c.ahead and on_gpu else 0
    shape = {"BLOCK_N": c.block_n, "BLOCK_K": c.block_k, "DEPTH": c.depth, "LINES": lines, "OVERLAP": overlap}
    options = {"num_warps": c.warps, "launch_pdl": overlap}
    grid = (triton.cdiv(out.shape[1], c.block_n),)
    arguments: list[object] = [*tensors, out.shape[1], eps]
    if rows == 1:
        kernel = one_row
    else:
        kernel = few_rows
        arguments.insert(-2, rows)
        shape |= {"ROWS": 8 if rows <= 8 else 16, "SPLIT": c.split, "TENSOR_CORES": on_gpu}
        options["num_stages"] = c.depth
    if out.is_meta:
        kernel.warmup(*arguments, grid=grid, **meaning, **shape, **options)
    else:
        kernel[grid](*arguments, **meaning, **shape, **options)


def norm_linear(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, weight: SkinnyWeight, out: torch.Tensor
) -> None:
    """See `operations.norm_linear`."""
    _launch(x, norm_weight, eps, weight, out)


def norm_linear_swiglu(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, gate_up: SkinnyWeight, out: torch.Tensor
) -> None:
    """See `operations.norm_linear_swiglu`."""
    _launch(x, norm_weight, eps, gate_up, out, swiglu=True)


def linear_add(a: torch.Tensor, weight: SkinnyWeight, x: torch.Tensor) -> None:
    """See `operations.linear_add`."""
    _launch(a, None, 0.0, weight, x, add=True)


def linear(a: torch.Tensor, weight: SkinnyWeight, out: torch.Tensor) -> None:
    """See `operations.linear`."""
    _launch(a, None, 0.0, weight, out)


@triton.jit
def _embed_and_place(
    table,
    ids,
    out,
    cosines,
    sines,
    positions,
    cos,
    sin,
    width,
    angles,
    BLOCK: tl.constexpr,
    ANGLES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One program a block of a row; behind the row's last block, one more for its position."""
    r = tl.program_id(1).to(tl.int64)
    after_the_kernel_before(OVERLAP)
    if tl.program_id(0) == tl.num_programs(0) - 1:
        angle = tl.arange(0, ANGLES)
        place = tl.load(positions + r) * angles + angle
        a = tl.load(cosines + place, mask=angle < angles)
        b = tl.load(sines + place, mask=angle < angles)
        tl.store(cos + r * angles + angle, a, mask=angle < angles)
        tl.store(sin + r * angles + angle, b, mask=angle < angles)
    else:
        column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(table + tl.load(ids + r) * width + column, mask=column < width)
        tl.store(out + r * width + column, value.to(out.dtype.element_ty), mask=column < width)


def embed_and_place(
    table: torch.Tensor,
    ids: torch.Tensor,
    out: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    places: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """See `operations.embed_and_place`."""
    (rows, width), half = out.shape, places[0].shape[1]
    overlap = overlaps(out)
    _embed_and_place[(triton.cdiv(width, 1024) + 1, rows)](
        table, ids, out, *angles, positions, *places, width, half, BLOCK=1024,
        ANGLES=triton.next_power_of_2(half), OVERLAP=overlap, num_warps=4, launch_pdl=overlap,
    )  # fmt: skip

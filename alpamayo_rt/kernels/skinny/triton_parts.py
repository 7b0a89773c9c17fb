# SPDX-License-Identifier: Apache-2.0
"""What both skinny kernels share: which rows a program has, the overlap with the kernel before, the end."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from alpamayo_rt.kernels.skinny import configurations


def overlaps(tensor: torch.Tensor) -> bool:
    """Whether a kernel may start while the one before it drains."""
    if not configurations.PROGRAMMATIC_LAUNCH or tensor.device.type == "cpu":
        return False
    return torch.cuda.get_device_capability() >= (9, 0)


@triton.jit
def rows_of_program(outputs, SWIGLU: tl.constexpr, BLOCK_N: tl.constexpr):
    """Rows of the matrix, (BLOCK_N · (1 + SWIGLU),) int64: with SwiGLU those of gate, then those of up.

    Rows behind the end become the last one: read in vain, but without a mask, and never stored.
    """
    i = tl.arange(0, BLOCK_N * (1 + SWIGLU))
    n = tl.minimum(tl.program_id(0) * BLOCK_N + i % BLOCK_N, outputs - 1).to(tl.int64)
    return n + (i // BLOCK_N) * outputs


@triton.jit
def fetch_ahead(weight, row, LENGTH: tl.constexpr, LINES: tl.constexpr):
    """Bring rows of LENGTH stored elements into the L2 cache, 128 bytes a line; LINES = 0: do nothing."""
    if LINES > 0:
        line: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth
        # Lines behind the end, as LINES is a power of two, become the last one.
        column = tl.minimum(tl.arange(0, LINES) * line, LENGTH - 1)
        place = (weight + row[None, :] * LENGTH + column[:, None]).to(tl.int64)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [place], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def sixteen_more(code):
    """Four-bit numbers → 16 + code, float32: put into the bits of 16.0, as conversions of integers are slow."""
    return ((code.to(tl.uint32) << 19) | 0x41800000).to(tl.float32, bitcast=True)


@triton.jit
def after_the_kernel_before(OVERLAP: tl.constexpr):
    """Let the next kernel start, then wait until all that the kernels before have written can be read."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def finish(
    y, out, rows, outputs, SWIGLU: tl.constexpr, ADD: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr
):
    """Store y (BLOCK_N · (1 + SWIGLU), ROWS) float32 to out (rows, outputs), rounding where torch would."""
    kind: tl.constexpr = out.dtype.element_ty
    if SWIGLU:
        gate, up = tl.split(tl.permute(tl.reshape(y, (2, BLOCK_N, ROWS)), (1, 2, 0)))
        gate = gate.to(kind).to(tl.float32)
        y = (gate / (1 + tl.exp(-gate))).to(kind).to(tl.float32) * up.to(kind).to(tl.float32)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, ROWS)
    inside = (n < outputs)[:, None] & (r < rows)[None, :]
    place = out + r[None, :] * outputs + n[:, None]
    if ADD:
        y = tl.load(place, mask=inside, other=0.0).to(tl.float32) + y.to(kind).to(tl.float32)
    tl.store(place, y.to(kind), mask=inside)

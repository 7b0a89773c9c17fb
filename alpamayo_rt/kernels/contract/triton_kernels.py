# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the contract's operations; what they do stands at their twins in `operations`.

Time and step width are read from the device, so that one captured launch serves every step.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _repeat_cache(
    source,
    out,
    length,
    layer_stride,
    head_stride,
    slot_stride,
    heads,
    slots,
    candidates,
    PART: tl.constexpr,
    DIM: tl.constexpr,
    TOKENS: tl.constexpr,
):
    # One program reads a tile of TOKENS × DIM values once and stores it for every candidate: reading costs
    # 2 bytes a value, storing 4 · candidates, so the read is kept out of the loop.
    row = tl.program_id(1).to(tl.int64)
    layer, head = row // heads, row % heads
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    column = tl.arange(0, DIM)
    place = layer * layer_stride + head * head_stride + token[:, None] * slot_stride + column[None, :]
    here = (token < tl.load(length))[:, None]
    tile = tl.load(source + place, mask=here, other=0.0).to(out.dtype.element_ty)
    inside = (token < slots)[:, None]
    target = token[:, None] * DIM + column[None, :]
    for candidate in range(candidates):
        block = ((layer * 2 + PART) * candidates + candidate) * heads + head
        tl.store(out + block * slots * DIM + target, tile, mask=inside)


def repeat_cache(keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor, length: torch.Tensor) -> None:
    """See `operations.repeat_cache`; the head dimension is a power of two."""
    layers, heads, _, dim = keys.shape
    candidates, slots, tokens = out.shape[1], out.shape[3], max(4096 // dim, 1)
    grid = (triton.cdiv(slots, tokens), layers * heads)
    for part, source in enumerate((keys, values)):
        _repeat_cache[grid](
            source, out, length, *source.stride()[:3], heads, slots, candidates,
            PART=part, DIM=dim, TOKENS=tokens, num_warps=8,
        )  # fmt: skip


@triton.jit
def _build_position_ids(start, out, waypoints, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(start + i // waypoints, mask=i < n, other=0)
    value = first + i % waypoints
    for component in range(3):
        tl.store(out + component * n + i, value, mask=i < n)


def build_position_ids(start: torch.Tensor, out: torch.Tensor) -> None:
    """See `operations.build_position_ids`."""
    n = out[0].numel()
    _build_position_ids[(triton.cdiv(n, 256),)](start, out, out.shape[2], n, BLOCK=256)


@triton.jit
def _fill_timestep(time, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(time), mask=i < n)


def fill_timestep(time: torch.Tensor, out: torch.Tensor) -> None:
    """See `operations.fill_timestep`."""
    n = out.numel()
    _fill_timestep[(triton.cdiv(n, 256),)](time, out, n, BLOCK=256)


@triton.jit
def _euler_update(x, velocity, dt, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n) + tl.load(velocity + i, mask=i < n) * tl.load(dt)
    tl.store(x + i, value, mask=i < n)


def euler_update(x: torch.Tensor, velocity: torch.Tensor, dt: torch.Tensor) -> None:
    """See `operations.euler_update`."""
    n = x.numel()
    _euler_update[(triton.cdiv(n, 256),)](x, velocity, dt, n, BLOCK=256)

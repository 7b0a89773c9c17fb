# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of `patches.patch_attention`.

A program holds a tile of one head's queries, which it turns itself (`triton_turn`), and walks over the keys of
its image. A head's columns are split into the largest power of two and the rest, so that 72 columns cost 80 and
not 128.

Where kernels overlap (`skinny.configurations.PROGRAMMATIC_LAUNCH`), the one that turns the keys lets this one
start only after it has waited for the joint product. So this one may read queries at once, and waits before it
reads keys.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from alpamayo_rt.kernels.attention.patches import PatchConfiguration
from alpamayo_rt.kernels.attention.triton_shared import dot_precision, padded, product
from alpamayo_rt.kernels.attention.triton_turn import neighbours, turn_keys, turn_tile
from alpamayo_rt.kernels.skinny.triton_parts import overlaps
from alpamayo_rt.kernels.tiles import two_parts


@triton.jit
def _read(source, inside, START: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr):
    """Columns [START, START + WIDTH) at `source` (N,); ROWS: only rows `inside`."""
    column = START + tl.arange(0, WIDTH)
    at = source[:, None] + column[None, :]
    if ROWS:
        if START + WIDTH > DIM:
            return tl.load(at, mask=inside[:, None] & (column < DIM)[None, :], other=0.0)
        else:
            return tl.load(at, mask=inside[:, None], other=0.0)
    elif START + WIDTH > DIM:
        return tl.load(at, mask=(column < DIM)[None, :], other=0.0)
    else:
        return tl.load(at)


@triton.jit
def _write(target, inside, value, START: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr):
    """As `_read`."""
    column = START + tl.arange(0, WIDTH)
    here = inside[:, None] & (column < DIM)[None, :]
    tl.store(target[:, None] + column[None, :], value.to(target.dtype.element_ty), mask=here)


@triton.jit
def _attend(
    q, q_rest, keys, values, stride, first, end, level, total, mixed, mixed_rest, scale, SIZE: tl.constexpr,
    MASKED: tl.constexpr, RISING: tl.constexpr, DIM: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Take patches [first, first + SIZE), where MASKED those below `end`, into the softmax over `level`.

    Where the level is RISING, to the largest score so far, what was summed before falls in proportion.
    """
    patch = first + tl.arange(0, SIZE)
    key, value, here = keys + patch * stride, values + patch * stride, patch < end
    k = _read(key, here, 0, MAIN, DIM, MASKED)
    v = _read(value, here, 0, MAIN, DIM, MASKED)
    scores = product(q, tl.trans(k), tl.zeros([q.shape[0], SIZE], tl.float32), PRECISION)
    if REST > 0:
        k_rest = _read(key, here, MAIN, REST, DIM, MASKED)
        v_rest = _read(value, here, MAIN, REST, DIM, MASKED)
        scores = product(q_rest, tl.trans(k_rest), scores, PRECISION)
    if MASKED:
        scores = tl.where(here[None, :], scores, float("-inf"))
    if RISING:
        new = tl.maximum(level, tl.max(scores, 1) * scale)
        fade = tl.exp2(level - new)
        level = new
        total = total * fade
        # Both are scaled before either product: the matrix unit works on while nobody touches its sums.
        mixed = mixed * fade[:, None]
        if REST > 0:
            mixed_rest = mixed_rest * fade[:, None]
    weights = tl.exp2(scores * scale - level[:, None])
    total = total + tl.sum(weights, 1)
    weights = weights.to(v.dtype)
    if REST > 0:
        mixed_rest = product(weights, v_rest, mixed_rest, PRECISION)
    mixed = product(weights, v, mixed, PRECISION)
    return level, total, mixed, mixed_rest


@triton.jit
def _walk(
    q, q_rest, keys, values, stride, patches, scale, RISING: tl.constexpr, DIM: tl.constexpr,
    MAIN: tl.constexpr, REST: tl.constexpr, BLOCK_N: tl.constexpr, WHOLE: tl.constexpr,
    HALF_TILE: tl.constexpr, LAST_TILE: tl.constexpr, LAST_MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All tiles of an image, the last one first: sums of weights, and of values by them.

    Where the level is not RISING, it stays at the largest score of the first tile.
    """
    level = tl.full([q.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([q.shape[0]], tl.float32)
    mixed = tl.zeros([q.shape[0], MAIN], tl.float32)
    if REST > 0:
        mixed_rest = tl.zeros([q.shape[0], REST], tl.float32)
    else:
        mixed_rest = total
    if LAST_TILE > 0:
        level, total, mixed, mixed_rest = _attend(
            q, q_rest, keys, values, stride, WHOLE + HALF_TILE * (BLOCK_N // 2), patches, level, total, mixed,
            mixed_rest, scale, LAST_TILE, LAST_MASKED, True, DIM, MAIN, REST, PRECISION,
        )  # fmt: skip
    if HALF_TILE:
        level, total, mixed, mixed_rest = _attend(
            q, q_rest, keys, values, stride, WHOLE, patches, level, total, mixed, mixed_rest, scale,
            BLOCK_N // 2, False, RISING or LAST_TILE == 0, DIM, MAIN, REST, PRECISION,
        )  # fmt: skip
    no_level: tl.constexpr = not (RISING or HALF_TILE or LAST_TILE > 0)
    if no_level:
        level, total, mixed, mixed_rest = _attend(
            q, q_rest, keys, values, stride, 0, patches, level, total, mixed, mixed_rest, scale,
            BLOCK_N, False, True, DIM, MAIN, REST, PRECISION,
        )  # fmt: skip
    for first in range(no_level * BLOCK_N, WHOLE, BLOCK_N):
        level, total, mixed, mixed_rest = _attend(
            q, q_rest, keys, values, stride, first, patches, level, total, mixed, mixed_rest, scale,
            BLOCK_N, False, RISING, DIM, MAIN, REST, PRECISION,
        )  # fmt: skip
    return total, mixed, mixed_rest


@triton.jit
def _patch_attention(
    qkv,
    cos,
    sin,
    out,
    patches,
    width,
    scale,
    DIM: tl.constexpr,
    MAIN: tl.constexpr,
    REST: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    MORE_GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RISING: tl.constexpr,
    MOST: tl.constexpr,
    WHOLE: tl.constexpr,
    HALF_TILE: tl.constexpr,
    LAST_TILE: tl.constexpr,
    LAST_MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    # Tiles of one head run at the same time and find its keys in the L2 cache.
    tile, head, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    stride = 3 * width
    base = qkv + image.to(tl.int64) * patches * stride + head * DIM
    patch = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = patch < patches
    # Turned queries wait where the result will lie, for the compiler keeps in shared memory what is read. What
    # was computed it fetches into registers for each product anew, and then products do not overlap.
    head_out = out + image.to(tl.int64) * patches * width + head * DIM
    turn_tile(base, head_out, cos, sin, tile * BLOCK_M, patches, width, 0, GROUPS, BLOCK_M, DIM // 2, GROUP)
    if MORE_GROUPS > 0:
        turn_tile(
            base, head_out, cos, sin, tile * BLOCK_M, patches, width, GROUPS, MORE_GROUPS, BLOCK_M, DIM // 2,
            GROUP,
        )  # fmt: skip
    tl.debug_barrier()  # other threads of this program read them; no other program does
    target = head_out + patch * width
    q = _read(target, inside, 0, MAIN, DIM, True)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    if REST > 0:
        q_rest = _read(target, inside, MAIN, REST, DIM, True)
    else:
        q_rest = q
    keys, values = base + width, base + 2 * width
    total, mixed, mixed_rest = _walk(
        q, q_rest, keys, values, stride, patches, scale, RISING, DIM, MAIN, REST, BLOCK_N, WHOLE,
        HALF_TILE, LAST_TILE, LAST_MASKED, PRECISION,
    )  # fmt: skip
    if not RISING:  # noqa: SIM102  (known when it is compiled; the other is not)
        if tl.max(total, 0) > MOST:
            total, mixed, mixed_rest = _walk(
                q, q_rest, keys, values, stride, patches, scale, True, DIM, MAIN, REST, BLOCK_N, WHOLE,
                HALF_TILE, LAST_TILE, LAST_MASKED, PRECISION,
            )  # fmt: skip
    share = 1.0 / total[:, None]
    _write(target, inside, mixed * share, 0, MAIN, DIM)
    if REST > 0:
        _write(target, inside, mixed_rest * share, MAIN, REST, DIM)


def patch_attention(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    configuration: PatchConfiguration,
) -> None:
    """See `patches.patch_attention`."""
    (tokens, heads, dim), patches, c = out.shape, len(cos), configuration
    tiles, overlap, group = triton.cdiv(patches, c.block_m), overlaps(out), neighbours(dim // 2)
    turn_keys(qkv, cos, sin, heads, c)
    main, rest = two_parts(dim, 16)
    groups, more_groups = two_parts(c.block_m * (dim // 2 // group))
    half, last, masked = last_tiles(patches, c.block_n)
    # Weights of float16 must stay below its largest number, sums of others well below that of float32.
    most = 2.0**15 if qkv.dtype == torch.float16 else 2.0**64
    _patch_attention[(tiles, heads, tokens // patches)](
        qkv, cos, sin, out, patches, heads * dim, dim**-0.5 * math.log2(math.e),
        DIM=dim, MAIN=main, REST=rest, GROUP=group, GROUPS=groups, MORE_GROUPS=more_groups,
        BLOCK_M=c.block_m, BLOCK_N=c.block_n, RISING=not c.steady, MOST=most,
        WHOLE=patches // c.block_n * c.block_n, HALF_TILE=half, LAST_TILE=last, LAST_MASKED=masked,
        PRECISION=dot_precision(qkv), OVERLAP=overlap,
        num_warps=c.warps, num_stages=c.stages, maxnreg=c.registers, launch_pdl=overlap,
    )  # fmt: skip


def last_tiles(patches: int, block_n: int) -> tuple[bool, int, bool]:
    """Behind the whole tiles: is there half a one, the size of the last (0: none), and is that to be masked."""
    left = patches % block_n
    half = left >= block_n // 2 >= 16
    left -= block_n // 2 if half else 0
    last = padded(left) if left else 0
    return half, last, last != left

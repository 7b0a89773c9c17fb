# SPDX-License-Identifier: Apache-2.0
"""Attention among the patches of each image on Hopper, heads of 72 columns: see `patches.cu`."""

from __future__ import annotations

import math
from functools import cache

import torch

from alpamayo_rt.kernels.attention.angles import PatchAngles
from alpamayo_rt.kernels.hopper.availability import on_hopper
from alpamayo_rt.kernels.hopper.driver import Kernel, tensor_map
from alpamayo_rt.kernels.hopper.sources import compiled

DIM, CHUNK, CHUNKS, SLAB = 72, 80, 9, 16
"""Columns of a head; patches of a chunk and chunks that shared memory holds; columns of a slab."""
GROUPS, QUERIES = 3, 64
"""Groups of four warps that attend, and the queries of each at a time."""
START = 3
"""What a unit costs before and behind its products, in tiles of `QUERIES`."""
ROWS = 64
"""The most that a table of angles may have."""
SHARED_BYTES = CHUNKS * (CHUNK * (9 * SLAB + 8) * 2 + 4 * 8 + CHUNK * 4) + ROWS * DIM * 2 + 255
"""Of each chunk keys and values, four barriers and places; the table; the way to a multiple of 256."""


def code() -> bytes:
    """The kernel's machine code."""
    return compiled("patches.cu", ((CHUNK, True, False), (DIM, True, True)))


@cache
def _kernel(device: int) -> Kernel:
    return Kernel(device, code(), "patch_attention", (GROUPS + 1) * 128, SHARED_BYTES)


def suits(qkv: torch.Tensor, angles: PatchAngles, out: torch.Tensor) -> bool:
    """Whether the kernel is for these; arguments as of `patch_attention`."""
    patches, table = len(angles.places), angles.table
    return (
        on_hopper(qkv, out)
        and out.shape[2] == DIM
        and 0 < patches <= CHUNK * CHUNKS
        and patches % CHUNK == 0
        and table.dtype == torch.float32
        and len(table) <= ROWS
        and table.shape[1:] == (DIM // 4, 2)
        and angles.places.dtype == torch.int32
        and all(
            t.is_contiguous() and t.data_ptr() % 16 == 0 and t.device == qkv.device
            for t in (table, angles.places)
        )
    )


def division(pairs: int, patches: int, processors: int) -> int:
    """Parts of an image's queries for which all units take the least time.

    Args:
        pairs: images times heads; with a part of the queries each is a unit.
        patches: of an image.
        processors: each takes a unit at a time.
    """

    def time(parts: int) -> int:
        tiles = math.ceil(math.ceil(patches / parts) / QUERIES)
        return math.ceil(pairs * parts / processors) * (START + tiles)

    return min(range(1, 9), key=time)


def patch_attention(
    qkv: torch.Tensor, angles: PatchAngles, out: torch.Tensor, parts: int | None = None
) -> None:
    """Rotate queries and keys, then let the patches of each image attend to each other, scaled by d^-½.

    Args:
        qkv: (T, 3 · heads · 72) bfloat16, T = images · patches; stays as it is.
        angles: of patches divisible by 80 and at most 720, 36 each, of at most 64 distinct halves.
        out: (T, heads, 72).
        parts: of an image's queries, each a unit of a block's work; None chooses.
    """
    (tokens, heads, _), patches = out.shape, len(angles.places)
    processors = torch.cuda.get_device_properties(qkv.device).multi_processor_count
    pairs = tokens // patches * heads
    parts = parts or division(pairs, patches, processors)
    size = math.ceil(patches / parts)
    parts = math.ceil(patches / size)  # none without queries
    units = pairs * parts
    blocks = math.ceil(units / math.ceil(units / processors))
    groups = min(GROUPS, math.ceil(size / QUERIES))
    passes = math.ceil(size / (groups * QUERIES))
    slabs, last = tensor_map(qkv, CHUNK, SLAB, swizzle=32), tensor_map(qkv, CHUNK, DIM % SLAB, swizzle=0)
    _kernel(qkv.device.index)(
        (blocks, 1, 1), slabs, last, qkv, angles.table, angles.places, out, len(angles.table), patches, heads,
        parts, size, units, patches // CHUNK, groups, passes,
    )  # fmt: skip

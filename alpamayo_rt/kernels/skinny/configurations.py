# SPDX-License-Identifier: Apache-2.0
"""How the skinny kernels cut their work, by rows, sizes and kind of weight; nothing is tuned at run time.

`benchmarks/skinny_linear.py` measures candidates and prints the entries of `TABLE`.
"""

from __future__ import annotations

from typing import NamedTuple

PROGRAMMATIC_LAUNCH = True
"""Start a kernel while the one before it drains; it fetches weights, then waits for that one's result.

Read when a kernel is launched, so that it may be changed between two captures. Needs compute capability 9.0.
Products of one row gain by it (a bf16 step 5.21 → 4.96 ms, FP8 2.87 → 2.68 ms); those of six lose a little
(5.73 → 5.83 ms, 3.50 → 3.78 ms) and go without.
"""


class Configuration(NamedTuple):
    """One row: `warps` stride over tiles of `block_n` rows × `block_k` inputs, `depth` tiles unrolled.

    More rows: `split` warps' worth of tiles lie side by side along K, and `depth` of them are under way in
    shared memory. SwiGLU has `block_n` rows of gate and as many of up.

    `ahead`: ask for all of a program's weights, into the L2 cache, before anything else. With the programmatic
    launch they arrive while a kernel before that waits for latency, not for memory, still runs.
    """

    block_n: int
    block_k: int
    warps: int
    depth: int = 1
    split: int = 1
    ahead: bool = False


Key = tuple[str, str, int, int]
"""Rows (`one`, `few` up to 8, `many`), kind of weight, rows of the matrix (gate and up together), inputs."""

TABLE: dict[Key, Configuration] = {
    ("one", "float", 6144, 4096): Configuration(4, 2048, 8, 1, 1, False),
    ("one", "float", 4096, 4096): Configuration(4, 1024, 4, 1, 1, False),
    ("one", "float", 24576, 4096): Configuration(2, 2048, 8, 1, 1, False),
    ("one", "float", 4096, 12288): Configuration(4, 2048, 8, 1, 1, False),
    ("one", "float", 155697, 4096): Configuration(4, 2048, 8, 1, 1, False),
    ("few", "float", 6144, 4096): Configuration(32, 128, 4, 3, 4, False),
    ("few", "float", 4096, 4096): Configuration(32, 128, 4, 3, 4, False),
    ("few", "float", 24576, 4096): Configuration(16, 128, 2, 4, 2, False),
    ("few", "float", 4096, 12288): Configuration(16, 128, 2, 4, 2, False),
    ("few", "float", 155697, 4096): Configuration(32, 128, 4, 3, 4, False),
    ("one", "e4m3", 6144, 4096): Configuration(4, 2048, 4, 4, 1, False),
    ("one", "e4m3", 4096, 4096): Configuration(4, 2048, 4, 4, 1, False),
    ("one", "e4m3", 24576, 4096): Configuration(2, 2048, 4, 4, 1, False),
    ("one", "e4m3", 4096, 12288): Configuration(4, 4096, 8, 1, 1, False),
    ("one", "e4m3", 155697, 4096): Configuration(2, 4096, 4, 1, 1, False),
    ("few", "e4m3", 6144, 4096): Configuration(16, 128, 4, 3, 4, False),
    ("few", "e4m3", 4096, 4096): Configuration(16, 128, 4, 4, 4, False),
    ("few", "e4m3", 24576, 4096): Configuration(16, 128, 2, 4, 2, False),
    ("few", "e4m3", 4096, 12288): Configuration(16, 128, 8, 3, 8, False),
    ("few", "e4m3", 155697, 4096): Configuration(16, 128, 2, 4, 2, False),
}
"""Measured on an H100 80GB HBM3, 2026-11-25."""


def rows_class(rows: int) -> str:
    """The first part of a key."""
    return "one" if rows == 1 else "few" if rows <= 8 else "many"


def default(rows: int, kind: str, outputs: int, inputs: int) -> Configuration:
    """For shapes that the table does not hold: modest tiles, no larger than the matrix wants."""
    longest = 1 << (inputs - 1).bit_length()
    if rows == 1:
        chunk = {"float": 8, "e4m3": 16, "int4": 32}[kind]
        warps = 4 if longest >= 128 * chunk else 1
        if inputs % (32 * chunk) == 0:  # then without a mask
            while inputs % (32 * warps * chunk):
                warps //= 2
        block_k = min(max(longest, chunk), 32 * warps * chunk)
        return Configuration(4 if outputs >= 2048 else 2, block_k, warps, 2)
    block_n, split = 32 if outputs >= 65536 else 16, 4 if longest >= 512 else 1
    if kind == "int4":
        return Configuration(block_n, 128, split, 3, split)
    return Configuration(block_n, min(max(longest // split, 16), 64), split, 4, split)


def choose(rows: int, kind: str, outputs: int, inputs: int) -> Configuration:
    """The table's entry, or the default."""
    found = TABLE.get((rows_class(rows), kind, outputs, inputs))
    return default(rows, kind, outputs, inputs) if found is None else found

# SPDX-License-Identifier: Apache-2.0
"""How the skinny kernels cut their work, by rows, sizes and kind of weight; nothing is tuned at run time.

`benchmarks/skinny_linear.py` measures candidates and prints the entries of `TABLE`.
"""

from __future__ import annotations

from typing import NamedTuple

PROGRAMMATIC_LAUNCH = False
"""Start a kernel while the one before it drains; it fetches weights, then waits for that one's result.

Read when a kernel is launched, so that it may be changed between two captures. Needs compute capability 9.0.
"""


class Configuration(NamedTuple):
    """One row: `warps` stride over tiles of `block_n` rows × `block_k` inputs, `depth` tiles unrolled.

    More rows: `split` warps' worth of tiles lie side by side along K, and `depth` of them are under way in
    shared memory. SwiGLU has `block_n` rows of gate and as many of up.
    """

    block_n: int
    block_k: int
    warps: int
    depth: int = 1
    split: int = 1


Key = tuple[str, str, int, int]
"""Rows (`one`, `few` up to 8, `many`), kind of weight, rows of the matrix (gate and up together), inputs."""

TABLE: dict[Key, Configuration] = {}


def rows_class(rows: int) -> str:
    """The first part of a key."""
    return "one" if rows == 1 else "few" if rows <= 8 else "many"


def default(rows: int, kind: str, outputs: int, inputs: int) -> Configuration:
    """For shapes that the table does not hold: modest tiles, no larger than the matrix wants."""
    longest = 1 << (inputs - 1).bit_length()
    if rows == 1:
        chunk = {"float": 8, "e4m3": 16, "int4": 32}[kind]
        warps = 4 if longest >= 128 * chunk else 1
        return Configuration(
            4 if outputs >= 2048 else 2, min(max(longest, chunk), 32 * warps * chunk), warps, 2
        )
    split = 4 if longest >= 512 else 1
    block_k = 128 if kind == "int4" else min(max(longest // split, 16), 128)
    return Configuration(16, block_k, 4 if split == 4 else 1, 3, split)


def choose(rows: int, kind: str, outputs: int, inputs: int) -> Configuration:
    """The table's entry, or the default."""
    found = TABLE.get((rows_class(rows), kind, outputs, inputs))
    return default(rows, kind, outputs, inputs) if found is None else found

# SPDX-License-Identifier: Apache-2.0
"""How the attention kernels divide their work, and the buffers that the parts meet in.

A launch is divided along the cache, because queries alone are too few to occupy a GPU. Each part writes the
output that it would have given alone and the logarithm of its sum of weights; the combination weighs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_PROGRAMS = 264
"""Two for each of an H100's multiprocessors."""

COMBINE_ONE_ROW_IN_LAST = False
"""Whether a decode step of one sequence does without the second kernel: see `DecodeConfiguration`."""


@dataclass(frozen=True)
class DecodeConfiguration:
    """Of `decode_attention_from_qkv`.

    Attributes:
        splits: programs a key-value head among which the prefix is divided.
        block_n: cached tokens a step of a program.
        warps: of a program.
        stages: tiles in flight.
        combine_in_last: whether the last program of a key-value head to arrive combines its parts; otherwise a
            second kernel does.
    """

    splits: int
    block_n: int = 64
    warps: int = 4
    stages: int = 3
    combine_in_last: bool = False


@dataclass(frozen=True)
class ExpertConfiguration:
    """Of `expert_attention`.

    Attributes:
        splits: programs a tile of queries among which the cache is divided.
        block_m: queries a tile; those of one candidate that share a key-value head are W · heads / kv heads.
        block_n: cached tokens a step of a program.
        warps: of a program.
        stages: tiles in flight.
        registers: the most that a thread may take, or None. At 128, two programs of 8 warps share a
            multiprocessor, and one computes weights while the other multiplies.
        half_parts: whether the parts are kept in float16 (they are averages of values, so that its range is
            that of the values); otherwise in float32.
    """

    splits: int
    block_m: int = 128
    block_n: int = 64
    warps: int = 8
    stages: int = 2
    registers: int | None = 128
    half_parts: bool = False


def decode_configuration(rows: int, heads: int, kv_heads: int) -> DecodeConfiguration:
    """A division that occupies an H100, for so many sequences."""
    splits = min(max(_PROGRAMS // 2 // kv_heads, 1), 16)
    return DecodeConfiguration(
        splits,
        warps=8 if rows * heads // kv_heads > 64 else 4,
        combine_in_last=COMBINE_ONE_ROW_IN_LAST and rows == 1,
    )


def expert_configuration(
    candidates: int, waypoints: int, heads: int, kv_heads: int, half_parts: bool = False
) -> ExpertConfiguration:
    """A division that occupies an H100 for K candidates of W waypoints."""
    queries = waypoints * heads // kv_heads
    block_m = 128 if queries > 64 else 64
    tiles = candidates * kv_heads * -(-queries // block_m)
    return ExpertConfiguration(
        min(max(_PROGRAMS // tiles, 1), 26),
        block_m=block_m,
        warps=8 if block_m == 128 else 4,
        registers=128 if block_m == 128 else None,
        half_parts=half_parts,
    )


@dataclass(frozen=True)
class DecodeScratch:
    """Parts of a decode step; may be shared by all layers, one after the other.

    Attributes:
        configuration: how the work is divided.
        parts: (splits + 1, R · heads, head dim) float32; the last one holds the rows' own tails.
        log_sums: (splits + 1, R · heads) float32, to the base 2.
        arrivals: (kv heads,) int32; zero between launches.
    """

    configuration: DecodeConfiguration
    parts: torch.Tensor
    log_sums: torch.Tensor
    arrivals: torch.Tensor

    @classmethod
    def allocate(
        cls,
        rows: int,
        heads: int,
        kv_heads: int,
        dim: int,
        device: torch.device | str,
        configuration: DecodeConfiguration | None = None,
    ) -> DecodeScratch:
        """For R rows."""
        chosen = configuration or decode_configuration(rows, heads, kv_heads)
        parts, n = chosen.splits + 1, rows * heads
        return cls(
            chosen,
            torch.zeros(parts, n, dim, device=device),
            torch.zeros(parts, n, device=device),
            torch.zeros(kv_heads, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True)
class ExpertScratch:
    """Parts of the expert's attention; may be shared by all layers and steps.

    Attributes:
        configuration: how the work is divided.
        parts: (splits, K · W · heads, head dim) float32 or float16.
        log_sums: (splits, K · W · heads) float32, to the base 2.
    """

    configuration: ExpertConfiguration
    parts: torch.Tensor
    log_sums: torch.Tensor

    @classmethod
    def allocate(
        cls,
        candidates: int,
        waypoints: int,
        heads: int,
        kv_heads: int,
        dim: int,
        device: torch.device | str,
        configuration: ExpertConfiguration | None = None,
    ) -> ExpertScratch:
        """For K candidates of W waypoints."""
        chosen = configuration or expert_configuration(candidates, waypoints, heads, kv_heads)
        n = candidates * waypoints * heads
        dtype = torch.float16 if chosen.half_parts else torch.float32
        return cls(
            chosen,
            torch.zeros(chosen.splits, n, dim, device=device, dtype=dtype),
            torch.zeros(chosen.splits, n, device=device),
        )

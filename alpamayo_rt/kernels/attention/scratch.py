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

UNIT, UNITS = 64, 3
"""Queries that a group of warps of `hopper.expert` serves, and such groups of a block."""
_PREFIX_TILE = 128
_MOST_SPLITS = 64


@dataclass(frozen=True)
class DecodeConfiguration:
    """Of `decode_attention_from_qkv`.

    Attributes:
        splits: programs a key-value head among which the prefix is divided.
        block_n: cached tokens a step of a program.
        warps: of a program.
        stages: tiles in flight.
    """

    splits: int
    block_n: int = _PREFIX_TILE
    warps: int = 4
    stages: int = 1


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
        specialized: whether `hopper.expert` is to run where it can; the rest but `splits` is then for where it
            cannot.
    """

    splits: int
    block_m: int = 128
    block_n: int = 64
    warps: int = 8
    stages: int = 2
    registers: int | None = 128
    half_parts: bool = False
    specialized: bool = False


def decode_configuration(rows: int, heads: int, kv_heads: int, prompt: int) -> DecodeConfiguration:
    """For so many sequences behind a prompt of up to so many tokens: one tile of it a program.

    Small programs, without a loop, fit beside those of the product before, so that their keys and values are
    under way before it has ended.
    """
    splits = min(max(-(-prompt // _PREFIX_TILE), 1), _MOST_SPLITS)
    return DecodeConfiguration(splits, warps=8 if rows * heads // kv_heads > 64 else 4)


def expert_configuration(
    candidates: int, waypoints: int, heads: int, kv_heads: int, half_parts: bool = False
) -> ExpertConfiguration:
    """A division that occupies an H100 for K candidates of W waypoints."""
    queries = waypoints * heads // kv_heads
    programs = kv_heads * -(-candidates * queries // (UNIT * UNITS))
    if half_parts and candidates * queries >= UNIT * UNITS and waypoints % UNIT == 0:
        splits = min(max(_PROGRAMS // 2 // programs, 1), 26)
        return ExpertConfiguration(splits, half_parts=True, specialized=True)
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
    """

    configuration: DecodeConfiguration
    parts: torch.Tensor
    log_sums: torch.Tensor

    @classmethod
    def allocate(
        cls,
        rows: int,
        heads: int,
        kv_heads: int,
        dim: int,
        device: torch.device | str,
        configuration: DecodeConfiguration,
    ) -> DecodeScratch:
        """For R rows."""
        parts, n = configuration.splits + 1, rows * heads
        return cls(
            configuration,
            torch.zeros(parts, n, dim, device=device),
            torch.zeros(parts, n, device=device),
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

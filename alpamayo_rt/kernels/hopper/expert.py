# SPDX-License-Identifier: Apache-2.0
"""The expert's attention on Hopper: see `expert.cu`."""

from __future__ import annotations

import math
import struct
from functools import cache

import torch

from alpamayo_rt.kernels.attention.scratch import UNIT, UNITS, ExpertScratch
from alpamayo_rt.kernels.attention.triton_shared import combine
from alpamayo_rt.kernels.hopper.availability import on_hopper
from alpamayo_rt.kernels.hopper.driver import Kernel, TensorMap, tensor_map
from alpamayo_rt.kernels.hopper.sources import compiled

DIM, KEYS, STAGES = 128, 64, 5
"""Columns of a head; cached tokens that are fetched together, and how often that fits."""
_WORK = "6if"
"""`Work` of `expert.cu`."""
# Queries, keys and values, barriers.
_SHARED_BYTES = (UNITS * UNIT + 2 * STAGES * KEYS) * DIM * 2 + (UNITS + 3 * STAGES) * 8


def code(group: int = 2, per_head: int = 1) -> bytes:
    """Machine code for so many heads a key-value head, and units of 64 tokens a head."""
    products = ((KEYS, False, False), (DIM, True, True))
    return compiled("expert.cu", products, (f"HEADS={group}", f"PER_HEAD={per_head}"))


@cache
def _kernel(device: int, group: int, per_head: int) -> Kernel:
    return Kernel(device, code(group, per_head), "expert_attention", (UNITS + 1) * 128, _SHARED_BYTES)


def suits(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scratch: ExpertScratch,
) -> bool:
    """Whether it can serve such arguments of `operations.expert_attention`."""
    _, waypoints, heads, dim = q.shape
    return (
        scratch.configuration.specialized
        and scratch.parts.dtype == torch.float16
        and dim == DIM
        and waypoints % UNIT == 0
        and heads % len(keys) == 0
        and on_hopper(q, keys, values, own_keys, own_values)
    )


def expert_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_sequence: torch.Tensor,
    tail_length: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    scratch: ExpertScratch,
) -> None:
    """See `operations.expert_attention`; where `suits` says so.

    Raises:
        CompilerError: the source cannot be compiled here.
        DriverError: the driver refuses.
    """
    candidates, waypoints, heads, dim = q.shape
    kv_heads, capacity = keys.shape[:2]
    group, tokens, per_head, parts = heads // kv_heads, candidates * waypoints, waypoints // UNIT, scratch.parts
    blocks = -(-candidates * group * per_head // UNITS)

    def tiles(matrix: torch.Tensor, rows: int) -> TensorMap:
        return tensor_map(matrix, rows, 64)

    work = struct.pack(
        _WORK, tail_start, tail_room, capacity, candidates, tail_sequence.element_size() // 4,
        tail_length.element_size() // 4, scale * math.log2(math.e),
    )  # fmt: skip
    _kernel(q.device.index, group, per_head)(
        (blocks, kv_heads, len(parts)),
        tiles(q.view(tokens, heads * dim), UNIT),
        *(tiles(part.view(kv_heads * capacity, dim), KEYS) for part in (keys, values)),
        *(tiles(part.view(tokens, kv_heads * dim), KEYS) for part in (own_keys, own_values)),
        tiles(parts.view(-1, heads * dim), UNIT),
        prefix_length, tail_sequence, tail_length, scratch.log_sums, work,
    )  # fmt: skip
    combine(parts, scratch.log_sums, out)

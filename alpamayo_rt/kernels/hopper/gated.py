# SPDX-License-Identifier: Apache-2.0
"""The gated linear unit over a few hundred rows on Hopper, with the norm before it: see `gated.cu`."""

from __future__ import annotations

from functools import cache

import torch

from alpamayo_rt.kernels.hopper.availability import on_hopper
from alpamayo_rt.kernels.hopper.driver import Kernel, tensor_map
from alpamayo_rt.kernels.hopper.factors import row_factors
from alpamayo_rt.kernels.hopper.sources import compiled

ROWS, COLUMNS, DEPTH, STAGES = 192, 128, 64, 4
"""Of a block's tile of the result; what is multiplied at once, and how often that fits."""
_MOST_ROWS = 768
"""Up to here it is faster than a product and what follows it; 12 candidates have so many."""
_BUSY = 0.85
"""Least share of the matrix units that it must be able to use; it does not divide sums."""
_SHARED_BYTES = STAGES * (ROWS + 2 * COLUMNS) * DEPTH * 2 + 2 * STAGES * 8


def code() -> bytes:
    """The kernel's machine code."""
    return compiled("gated.cu", products=((128, False, False),))


@cache
def _kernel(device: int) -> Kernel:
    return Kernel(device, code(), "gated_product", (ROWS // 64 + 1) * 128, _SHARED_BYTES, cluster=2)


def suits(x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor) -> bool:
    """Whether it is for such matrices, and keeps enough multiprocessors busy."""
    (m, k), n = x.shape, out.shape[1]
    if m > _MOST_ROWS or k % 8 or n % 8 or not on_hopper(x, gate_up, out):
        return False
    return busy(m, n, torch.cuda.get_device_properties(x.device).multi_processor_count) >= _BUSY


def busy(m: int, n: int, processors: int) -> float:
    """Share of the matrix units' work that is needed, where each of so many multiprocessors takes tiles."""
    tiles = -(-n // COLUMNS) * -(-m // (2 * ROWS)) * 2
    return m * n / (-(-tiles // processors) * processors * ROWS * COLUMNS)


def gated_product(x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor, eps: float | None = None) -> None:
    """silu(h gateᵀ) · (h upᵀ) with h = x, or x over the root mean square of each row where `eps` is given.

    Args:
        x: (M, K) bfloat16 on Hopper, contiguous, K divisible by 8.
        gate_up: (2 · I, K), gate before up, I divisible by 8.
        out: (M, I).
        eps: added to the mean square.
    """
    (m, k), n = x.shape, out.shape[1]
    factors = None if eps is None else row_factors(x, eps)
    _kernel(x.device.index)(
        (-(-n // COLUMNS) * 2, -(-m // (2 * ROWS)), 1), tensor_map(x, ROWS, DEPTH),
        tensor_map(gate_up, COLUMNS, DEPTH), tensor_map(out, 64, 64), factors,
        -(-k // DEPTH), m, n,
    )  # fmt: skip

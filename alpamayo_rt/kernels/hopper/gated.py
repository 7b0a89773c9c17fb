# SPDX-License-Identifier: Apache-2.0
"""The gated linear unit over a few hundred rows on Hopper, with the norm before it: see `gated.cu`."""

from __future__ import annotations

from functools import cache

import torch

from alpamayo_rt.kernels.hopper.driver import Kernel, tensor_map
from alpamayo_rt.kernels.hopper.factors import row_factors
from alpamayo_rt.kernels.hopper.sources import compiled

ROWS, COLUMNS, DEPTH, STAGES = 192, 128, 64, 4
"""Of a block's tile of the result; what is multiplied at once, and how often that fits."""
_SHARED_BYTES = STAGES * (ROWS + 2 * COLUMNS) * DEPTH * 2 + 2 * STAGES * 8


def code() -> bytes:
    """The kernel's machine code."""
    return compiled("gated.cu", products=((128, False, False),))


@cache
def _kernel(device: int) -> Kernel:
    with torch.cuda.device(device):
        return Kernel(code(), "gated_product", (ROWS // 64 + 1) * 128, _SHARED_BYTES, cluster=2)


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

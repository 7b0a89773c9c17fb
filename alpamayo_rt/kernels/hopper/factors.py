# SPDX-License-Identifier: Apache-2.0
"""What a norm multiplies the rows of a stream by, on Hopper, for kernels that do so on their way out."""

from __future__ import annotations

from functools import cache

import torch

from alpamayo_rt.kernels.hopper.driver import Kernel
from alpamayo_rt.kernels.hopper.sources import compiled

_ROWS = 8
"""Of a block."""


def code() -> bytes:
    """The kernel's machine code."""
    return compiled("factors.cu")


@cache
def _kernel(device: int) -> Kernel:
    return Kernel(device, code(), "row_factors", 32 * _ROWS, 0)


def row_factors(x: torch.Tensor, eps: float) -> torch.Tensor:
    """One over the root of each row's mean square and `eps`: (M, K) bfloat16, contiguous → (M,) float32.

    K is divisible by 8.
    """
    factors = x.new_empty(len(x), dtype=torch.float32)
    rows, width = x.shape
    blocks = (-(-rows // _ROWS), 1, 1)
    _kernel(x.device.index)(blocks, x, factors, rows, width, float(eps))
    return factors

# SPDX-License-Identifier: Apache-2.0
"""The gated linear unit of a decoder layer over many tokens, from the residual stream on, in as few launches as
there are kernels for.
"""

from __future__ import annotations

import torch

from alpamayo_rt.kernels.hopper.availability import Chosen, on_hopper
from alpamayo_rt.kernels.layers import decoder
from alpamayo_rt.kernels.products.operations import linear_into

_MOST_ROWS = 768
"""Up to here the kernel for Hopper is faster than a product and what follows it; 12 candidates have so many."""
_BUSY = 0.85
"""Least share of the matrix units that it must be able to use; it does not divide sums."""


@torch.no_grad()
def gated_linear(x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor, eps: float | None = None) -> None:
    """silu(h gateᵀ) · (h upᵀ), with h = x, or x over the root mean square of each of its rows.

    Args:
        x: (M, K), contiguous.
        gate_up: (2 · I, K), gate before up, of the same type.
        out: (M, I), of the same type.
        eps: added to the mean square; None: h = x.
    """
    if not (suits_hopper(x, gate_up, out) and _HOPPER(x, gate_up, out, eps)):
        made = x.new_empty(len(x), len(gate_up))
        linear_into(x, gate_up, made)
        stream = None if eps is None else x
        decoder.swiglu(made, out, stream=stream, eps=eps or 0.0)


def suits_hopper(x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor) -> bool:
    """Whether `hopper.gated` is for such matrices, and keeps enough multiprocessors busy."""
    (m, k), n = x.shape, out.shape[1]
    if m > _MOST_ROWS or k % 8 or n % 8 or not on_hopper(x, gate_up, out):
        return False
    return busy(m, n, torch.cuda.get_device_properties(x.device).multi_processor_count) >= _BUSY


def busy(m: int, n: int, processors: int) -> float:
    """Share of the matrix units' work that is needed, where each of so many multiprocessors takes tiles."""
    from alpamayo_rt.kernels.hopper.gated import COLUMNS, ROWS

    tiles = -(-n // COLUMNS) * -(-m // (2 * ROWS)) * 2
    return m * n / (-(-tiles // processors) * processors * ROWS * COLUMNS)


def _hopper(x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor, eps: float | None) -> None:
    from alpamayo_rt.kernels.hopper.gated import gated_product

    gated_product(x, gate_up, out, eps)


_HOPPER = Chosen("gated linear unit", _hopper)

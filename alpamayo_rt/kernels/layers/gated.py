# SPDX-License-Identifier: Apache-2.0
"""The gated linear unit of a decoder layer over many tokens, from the residual stream on, in as few launches as
there are kernels for.
"""

from __future__ import annotations

import torch

from alpamayo_rt.kernels.hopper import gated
from alpamayo_rt.kernels.hopper.availability import Chosen
from alpamayo_rt.kernels.layers import decoder
from alpamayo_rt.kernels.products.operations import linear_into


@torch.no_grad()
def gated_linear(x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor, eps: float | None = None) -> None:
    """silu(h gateᵀ) · (h upᵀ), with h = x, or x over the root mean square of each of its rows.

    Args:
        x: (M, K), contiguous.
        gate_up: (2 · I, K), gate before up, of the same type.
        out: (M, I), of the same type.
        eps: added to the mean square; None: h = x.
    """
    if not (gated.suits(x, gate_up, out) and _HOPPER(x, gate_up, out, eps)):
        made = x.new_empty(len(x), len(gate_up))
        linear_into(x, gate_up, made)
        stream = None if eps is None else x
        decoder.swiglu(made, out, stream=stream, eps=eps or 0.0)


_HOPPER = Chosen("gated linear unit", gated.gated_product)

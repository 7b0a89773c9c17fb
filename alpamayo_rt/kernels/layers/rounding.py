# SPDX-License-Identifier: Apache-2.0
"""Rounding to e4m3 with one scale a token, and the activation that may stand before it.

As in `layers.decoder`: Triton kernels on a GPU, torch twins elsewhere, into buffers that the caller owns.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.quantization.formats import to_e4m3

Gelu = Literal["none", "tanh"]
"""GELU in its two forms, the exact one and the approximation by tanh, as torch names them."""


def quantize(
    x: torch.Tensor,
    out: torch.Tensor,
    out_scale: torch.Tensor,
    input_scale: torch.Tensor | None = None,
    gelu: Gelu | None = None,
) -> None:
    """x, or GELU of it, in e4m3.

    Args:
        x: (N, K).
        out: (N, K) e4m3.
        out_scale: (N, 1) float32, written: the scale of each row.
        input_scale: () float32, a fixed scale instead of one a row.
        gelu: what is applied before, rounded to the type of x.
    """
    if uses_triton(x):
        from alpamayo_rt.kernels.layers import rounding_triton

        rounding_triton.quantize(x, out, out_scale, input_scale, gelu)
    else:
        quantize_twin(x, out, out_scale, input_scale, gelu)


def quantize_twin(
    x: torch.Tensor,
    out: torch.Tensor,
    out_scale: torch.Tensor,
    input_scale: torch.Tensor | None = None,
    gelu: Gelu | None = None,
) -> None:
    """See `quantize`."""
    store(x if gelu is None else F.gelu(x, approximate=gelu), out, out_scale, input_scale)


def store(
    value: torch.Tensor, out: torch.Tensor, out_scale: torch.Tensor | None, input_scale: torch.Tensor | None
) -> None:
    """The end of a twin: a copy, or with `out_scale` a rounding to e4m3 (see `quantize`)."""
    if out_scale is None:
        out.copy_(value)
        return
    rounded = to_e4m3(value, input_scale)
    out.copy_(rounded.values)
    out_scale.copy_(rounded.scale)

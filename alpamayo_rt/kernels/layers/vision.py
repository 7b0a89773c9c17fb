# SPDX-License-Identifier: Apache-2.0
"""The vision tower's norm.

As in `layers.decoder`: Triton kernels on a GPU, torch twins elsewhere, into buffers that the caller owns.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.kernels.layers.rounding import store


def add_layer_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    shift: torch.Tensor | None = None,
    out_scale: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
) -> None:
    """x += delta, and a LayerNorm of it; optionally rounded to e4m3 with one scale a token.

    Args:
        x: (N, hidden), changed in place where there is a delta.
        delta: (N, hidden) or None.
        weight: (hidden,) of the norm, as is bias.
        bias: see weight.
        eps: of the norm.
        out: (N, hidden), the norm of x + shift, in the type of x, or e4m3 with `out_scale`.
        shift: (hidden,) float32 or None.
        out_scale: (N, 1) float32, written where `out` is e4m3.
        input_scale: () float32, a fixed scale instead of one a token.
    """
    if uses_triton(x):
        from alpamayo_rt.kernels.layers import vision_triton

        vision_triton.add_layer_norm(x, delta, weight, bias, eps, out, shift, out_scale, input_scale)
    else:
        add_layer_norm_twin(x, delta, weight, bias, eps, out, shift, out_scale, input_scale)


def add_layer_norm_twin(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    shift: torch.Tensor | None = None,
    out_scale: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
) -> None:
    """See `add_layer_norm`."""
    if delta is not None:
        x += delta
    shifted = x if shift is None else x.float() + shift
    norm = (weight.to(shifted.dtype), bias.to(shifted.dtype))
    made = F.layer_norm(shifted, (x.shape[-1],), *norm, eps)
    store(made if out_scale is None else made.to(x.dtype), out, out_scale, input_scale)

# SPDX-License-Identifier: Apache-2.0
"""The vision tower's norm.

As in `layers.decoder`: Triton kernels on a GPU, torch twins elsewhere, into buffers that the caller owns.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.dispatch import uses_triton


def add_layer_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    shift: torch.Tensor | None = None,
) -> None:
    """x += delta, and a LayerNorm of it.

    Args:
        x: (N, hidden), changed in place where there is a delta.
        delta: (N, hidden) or None.
        weight: (hidden,) of the norm, as is bias.
        bias: see weight.
        eps: of the norm.
        out: (N, hidden), the norm of x + shift.
        shift: (hidden,) float32 or None.
    """
    if uses_triton(x):
        from alpamayo_rt.kernels.layers import vision_triton

        vision_triton.add_layer_norm(x, delta, weight, bias, eps, out, shift)
    else:
        add_layer_norm_twin(x, delta, weight, bias, eps, out, shift)


def add_layer_norm_twin(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    shift: torch.Tensor | None = None,
) -> None:
    """See `add_layer_norm`."""
    if delta is not None:
        x += delta
    shifted = x if shift is None else x.float() + shift
    norm = (weight.to(shifted.dtype), bias.to(shifted.dtype))
    out.copy_(F.layer_norm(shifted, (x.shape[-1],), *norm, eps))

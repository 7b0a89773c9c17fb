# SPDX-License-Identifier: Apache-2.0
"""A block of the vision tower without its matrix products, and the two halves of its rotary positions.

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


def rotate_patches(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_out: torch.Tensor, k_out: torch.Tensor
) -> None:
    """Rotate queries and keys of all patches.

    Args:
        qkv: (T, 3 · heads · d), T = images · patches, image by image.
        cos: (patches, d / 2) float32, as is sin; the second half of a head has the same.
        sin: see cos.
        q_out: (T, heads, d) contiguous, as is k_out.
        k_out: see q_out.
    """
    if uses_triton(qkv):
        from alpamayo_rt.kernels.layers import vision_triton

        vision_triton.rotate_patches(qkv, cos, sin, q_out, k_out)
    else:
        rotate_patches_twin(qkv, cos, sin, q_out, k_out)


def rotate_patches_twin(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_out: torch.Tensor, k_out: torch.Tensor
) -> None:
    """See `rotate_patches`."""
    heads, d = q_out.shape[1:]
    parts = qkv.view(-1, len(cos), 3, heads, d)
    c, s = cos[:, None], sin[:, None]
    for part, out in ((parts[:, :, 0], q_out), (parts[:, :, 1], k_out)):
        first, second = part.float().chunk(2, -1)
        turned = torch.cat([first * c - second * s, second * c + first * s], -1)
        out.copy_(turned.to(qkv.dtype).flatten(0, 1))

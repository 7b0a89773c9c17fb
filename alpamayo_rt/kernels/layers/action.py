# SPDX-License-Identifier: Apache-2.0
"""The expert's two ends: Fourier features and the projection's norms before it, the velocity behind it.

As in `layers.decoder`: Triton kernels on a GPU, torch twins elsewhere, into buffers that the caller owns.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.kernels.layers.decoder import inverse_rms


def action_features(x: torch.Tensor, time: torch.Tensor, freqs: torch.Tensor, out: torch.Tensor) -> None:
    """Fourier features of acceleration, curvature and flow time, each √2·[sin 2πf u, cos 2πf u].

    Args:
        x: (N, 2) float32, normalized (acceleration, curvature).
        time: () float32, flow time.
        freqs: (3, F) float32, the frequencies of the three.
        out: (N, 6 · F) in the model's type.
    """
    if uses_triton(x):
        from alpamayo_rt.kernels.layers import action_triton

        action_triton.action_features(x, time, freqs, out)
    else:
        action_features_twin(x, time, freqs, out)


def action_features_twin(x: torch.Tensor, time: torch.Tensor, freqs: torch.Tensor, out: torch.Tensor) -> None:
    """See `action_features`."""
    parts = []
    for u, f in zip((x[:, 0], x[:, 1], time.expand(len(x))), freqs, strict=True):
        argument = u[:, None] * f * 2 * torch.pi
        parts += [argument.sin(), argument.cos()]
    out.copy_(torch.cat(parts, -1) * math.sqrt(2))


def silu_rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """RMSNorm of silu(x): x and `out` (N, n), weight (n,)."""
    if uses_triton(x):
        from alpamayo_rt.kernels.layers import action_triton

        action_triton.silu_rms_norm(x, weight, eps, out)
    else:
        silu_rms_norm_twin(x, weight, eps, out)


def silu_rms_norm_twin(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """See `silu_rms_norm`."""
    y = F.silu(x).float()
    out.copy_(weight * (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)).to(x.dtype))


def velocity(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    norm: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    width: float | None = None,
) -> None:
    """The action output projection of the last RMSNorm; as it stands, or as a step of Euler's method.

    Args:
        x: (N, n) residual stream.
        delta: (N, n) what is still to be added to it, or None.
        norm: (n,) of the norm.
        eps: of the norm.
        weight: (2, n), as is bias (2,): of the projection.
        bias: see weight.
        out: (N, 2) float32: becomes the velocity, or moves by `width` times the velocity.
        width: of the step, or None.
    """
    if uses_triton(x):
        from alpamayo_rt.kernels.layers import action_triton

        action_triton.velocity(x, delta, norm, eps, weight, bias, out, width)
    else:
        velocity_twin(x, delta, norm, eps, weight, bias, out, width)


def velocity_twin(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    norm: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    width: float | None = None,
) -> None:
    """See `velocity`."""
    stream = x if delta is None else x + delta
    hidden = norm * (stream.float() * inverse_rms(stream, eps)).to(x.dtype)
    found = F.linear(hidden.float(), weight.float(), bias.float())
    if width is None:
        out.copy_(found)
    else:
        out.add_(found, alpha=width)

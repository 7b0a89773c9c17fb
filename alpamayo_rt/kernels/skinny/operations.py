# SPDX-License-Identifier: Apache-2.0
"""Linear layers for 1 to 16 rows, with the norm before and the residual or SwiGLU behind them.

Each writes into a buffer that its caller owns, reads nothing back to the host, and can be captured in a CUDA
graph. Weights are read once, in the form in which they are stored; inputs are never narrowed, sums are float32.
On a GPU (and everywhere under TRITON_INTERPRET=1) each is one Triton kernel; elsewhere its torch twin, which
has the same signature and is the kernel's oracle: float32 inside, or float64 when it is fed float64.

Rounding. The modules of `model/decoder.py` round the normed input twice (after dividing by the root mean
square, after the norm's weight). The kernels do not: with one row the input enters the product in float32, with
more it is rounded once, and the root mean square, whose sum runs beside the product, divides the product.
Logits (a float32 `out`) are not rounded to the type of the input first. Both are nearer to exact arithmetic.
Gate and up, and the product that is added to the residual, are rounded where the modules round them.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.kernels.skinny.weights import SkinnyWeight


def norm_linear(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, weight: SkinnyWeight, out: torch.Tensor
) -> None:
    """RMSNorm, then a linear layer.

    Args:
        x: (R, K) contiguous, 1 ≤ R ≤ 16; bfloat16, float16 or float32.
        norm_weight: (K,) of the norm.
        eps: what the norm adds to the mean square.
        weight: (N, K).
        out: (R, N) contiguous, of the type of x or float32.
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.skinny import triton_kernels

        triton_kernels.norm_linear(x, norm_weight, eps, weight, out)
    else:
        norm_linear_twin(x, norm_weight, eps, weight, out)


def norm_linear_twin(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, weight: SkinnyWeight, out: torch.Tensor
) -> None:
    """See `norm_linear`."""
    out.copy_(_product(_norm(x, norm_weight, eps), weight))


def norm_linear_swiglu(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, gate_up: SkinnyWeight, out: torch.Tensor
) -> None:
    """RMSNorm, then the first half of an MLP: silu(gate) · up.

    Args:
        x: (R, K) contiguous, 1 ≤ R ≤ 16.
        norm_weight: (K,) of the norm.
        eps: what the norm adds to the mean square.
        gate_up: (2 · I, K), the rows of gate before those of up.
        out: (R, I) contiguous, of the type of x; gate, up and silu(gate) are rounded to it.
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.skinny import triton_kernels

        triton_kernels.norm_linear_swiglu(x, norm_weight, eps, gate_up, out)
    else:
        norm_linear_swiglu_twin(x, norm_weight, eps, gate_up, out)


def norm_linear_swiglu_twin(
    x: torch.Tensor, norm_weight: torch.Tensor, eps: float, gate_up: SkinnyWeight, out: torch.Tensor
) -> None:
    """See `norm_linear_swiglu`."""
    gate, up = _product(_norm(x, norm_weight, eps), gate_up).to(out.dtype).chunk(2, -1)
    out.copy_(F.silu(gate) * up)


def linear_add(a: torch.Tensor, weight: SkinnyWeight, x: torch.Tensor) -> None:
    """x += a · Wᵀ, in place; the product is rounded to the type of x before it is added.

    Args:
        a: (R, K) contiguous, 1 ≤ R ≤ 16.
        weight: (N, K).
        x: (R, N) contiguous, the residual stream.
    """
    if uses_triton(x):
        from alpamayo_rt.kernels.skinny import triton_kernels

        triton_kernels.linear_add(a, weight, x)
    else:
        linear_add_twin(a, weight, x)


def linear_add_twin(a: torch.Tensor, weight: SkinnyWeight, x: torch.Tensor) -> None:
    """See `linear_add`."""
    x += _product(a, weight).to(x.dtype)


def linear(a: torch.Tensor, weight: SkinnyWeight, out: torch.Tensor) -> None:
    """A linear layer: a (R, K) and weight (N, K) → out (R, N), both contiguous; 1 ≤ R ≤ 16."""
    if uses_triton(out):
        from alpamayo_rt.kernels.skinny import triton_kernels

        triton_kernels.linear(a, weight, out)
    else:
        linear_twin(a, weight, out)


def linear_twin(a: torch.Tensor, weight: SkinnyWeight, out: torch.Tensor) -> None:
    """See `linear`."""
    out.copy_(_product(a, weight))


def embed_and_place(
    table: torch.Tensor,
    ids: torch.Tensor,
    out: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    places: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Rows of an embedding, and the rotary rows of their positions.

    Args:
        table: (vocabulary, K) contiguous.
        ids: (R,) int64 on the same device, each in [0, vocabulary).
        out: (R, K) contiguous.
        angles: cosines and sines of every position, both (P, D) contiguous float32.
        positions: (R,) int64, each in [0, P).
        places: cosines and sines of these positions, both (R, D) contiguous float32; are written.
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.skinny import triton_kernels

        triton_kernels.embed_and_place(table, ids, out, angles, positions, places)
    else:
        embed_and_place_twin(table, ids, out, angles, positions, places)


def embed_and_place_twin(
    table: torch.Tensor,
    ids: torch.Tensor,
    out: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
    places: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """See `embed_and_place`."""
    out.copy_(table.index_select(0, ids))
    for source, target in zip(angles, places, strict=True):
        torch.index_select(source, 0, positions, out=target)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _norm(x: torch.Tensor, norm_weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = _wide(x)
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return norm_weight * wide.to(x.dtype)


def _product(a: torch.Tensor, weight: SkinnyWeight) -> torch.Tensor:
    wide = _wide(a)
    return F.linear(wide, weight.restored(a.shape[1], wide.dtype))

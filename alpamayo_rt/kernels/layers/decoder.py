# SPDX-License-Identifier: Apache-2.0
"""A decoder layer without its matrix products: norms, rotary positions with the cache's write, SwiGLU.

All write into buffers that their caller owns, so that they can be captured in a CUDA graph, and all round where
the modules of `model/decoder.py` round. On a GPU (and everywhere under TRITON_INTERPRET=1) they are Triton
kernels; elsewhere their torch twins, which have the same signature and are the kernels' oracles.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.kernels.layers.rounding import store


def add_rms_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    out_scale: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    feature: torch.Tensor | None = None,
    feature_row: torch.Tensor | None = None,
) -> None:
    """x += delta (+ feature), then its RMSNorm; optionally rounded to e4m3 with one scale a token.

    Args:
        x: (N, hidden) residual stream, changed in place.
        delta: (N, hidden) what the layer before gave, or None.
        weight: (hidden,) of the norm.
        eps: of the norm.
        out: (N, hidden) in the type of x, or e4m3 with `out_scale`.
        out_scale: (N, 1) float32, written where `out` is e4m3.
        input_scale: () float32, a fixed scale instead of one a token.
        feature: (M, hidden) DeepStack features that are added behind delta, before the norm.
        feature_row: (N,) int64, the row of `feature` for each token, -1 for none.
    """
    if uses_triton(x):
        from alpamayo_rt.kernels.layers import decoder_triton

        decoder_triton.add_rms_norm(x, delta, weight, eps, out, out_scale, input_scale, feature, feature_row)
    else:
        add_rms_norm_twin(x, delta, weight, eps, out, out_scale, input_scale, feature, feature_row)


def add_rms_norm_twin(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    out_scale: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    feature: torch.Tensor | None = None,
    feature_row: torch.Tensor | None = None,
) -> None:
    """See `add_rms_norm`."""
    if delta is not None:
        x += delta
    if feature is not None:
        assert feature_row is not None
        x += torch.where(feature_row[:, None] >= 0, feature[feature_row.clamp(min=0)], 0)
    normed = weight * (x.float() * inverse_rms(x, eps)).to(x.dtype)
    store(normed, out, out_scale, input_scale)


def qk_norm_rope(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    q_out: torch.Tensor | None,
    keys: torch.Tensor,
    values: torch.Tensor,
    stream: torch.Tensor | None = None,
) -> None:
    """Norm each head of q and k, rotate both, and write keys and values into their slots.

    Args:
        qkv: (N, (heads + 2 · kv heads) · d), q before k before v; without q's part where `q_out` is None.
        q_weight: (d,), as is k_weight: of the norms.
        k_weight: see q_weight.
        eps: of the norms.
        cos: (N, d / 2) float32, as is sin: rotary positions; the second half of a head has the same.
        sin: see cos.
        slots: (N,) int64, where each token's keys and values go.
        q_out: (N, heads, d) contiguous, or None.
        keys: (kv heads, capacity, d), any strides but the last, as are values.
        values: see keys.
        stream: (N, hidden), where `qkv` is its product as it stands: what the RMSNorm of it, by `eps` and
            without weights, would have divided is divided here.
    """
    if uses_triton(qkv):
        from alpamayo_rt.kernels.layers import heads_triton

        heads_triton.qk_norm_rope(qkv, q_weight, k_weight, eps, cos, sin, slots, q_out, keys, values, stream)
    else:
        qk_norm_rope_twin(qkv, q_weight, k_weight, eps, cos, sin, slots, q_out, keys, values, stream)


def qk_norm_rope_twin(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    q_out: torch.Tensor | None,
    keys: torch.Tensor,
    values: torch.Tensor,
    stream: torch.Tensor | None = None,
) -> None:
    """See `qk_norm_rope`."""
    n, kv, d, dtype = len(qkv), len(keys), keys.shape[2], qkv.dtype
    heads = 0 if q_out is None else q_out.shape[1]
    if stream is not None:
        qkv = qkv.float() * inverse_rms(stream, eps)
    q, k, v = qkv.view(n, -1, d).split([heads, kv, kv], 1)

    def turned(part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        normed = weight * (part.float() * inverse_rms(part, eps)).to(dtype)
        first, second = normed.float().chunk(2, -1)
        c, s = cos[:, None], sin[:, None]
        return torch.cat([first * c - second * s, second * c + first * s], -1).to(dtype)

    if q_out is not None:
        q_out.copy_(turned(q, q_weight))
    keys[:, slots] = turned(k, k_weight).transpose(0, 1)
    values[:, slots] = v.transpose(0, 1).to(dtype)


def inverse_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    """(…, hidden) → (…, 1) float32: what an RMSNorm without weights multiplies by."""
    return torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)


def swiglu(
    gate_up: torch.Tensor,
    out: torch.Tensor,
    out_scale: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    stream: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """silu(gate) · up, optionally rounded to e4m3 with one scale a token.

    Args:
        gate_up: (N, 2 · I), gate before up.
        out: (N, I) in the same type, or e4m3 with `out_scale`.
        out_scale: (N, 1) float32, written where `out` is e4m3.
        input_scale: () float32, a fixed scale instead of one a token.
        stream: as of `qk_norm_rope`, where `out` is not e4m3.
        eps: of that norm.
    """
    if uses_triton(gate_up):
        from alpamayo_rt.kernels.layers import decoder_triton

        decoder_triton.swiglu(gate_up, out, out_scale, input_scale, stream, eps)
    else:
        swiglu_twin(gate_up, out, out_scale, input_scale, stream, eps)


def swiglu_twin(
    gate_up: torch.Tensor,
    out: torch.Tensor,
    out_scale: torch.Tensor | None = None,
    input_scale: torch.Tensor | None = None,
    stream: torch.Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """See `swiglu`."""
    if stream is not None:
        gate_up = (gate_up.float() * inverse_rms(stream, eps)).to(gate_up.dtype)
    gate, up = gate_up.chunk(2, -1)
    store(F.silu(gate) * up, out, out_scale, input_scale)

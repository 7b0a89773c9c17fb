# SPDX-License-Identifier: Apache-2.0
"""A decoder layer over many tokens: the prompt's, or those of all candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.graphs.linear import Input, add_e4m3, empty_input
from alpamayo_rt.engine.graphs.weights import Fused, LayerWeights
from alpamayo_rt.kernels.layers import decoder as ops
from alpamayo_rt.kernels.layers.gated import gated_linear
from alpamayo_rt.kernels.layers.rounding import quantize
from alpamayo_rt.kernels.products.operations import linear_into, scaled_linear_into
from alpamayo_rt.quantization.formats import Int4, from_int4

Attend = Callable[[int, torch.Tensor], torch.Tensor]
"""(layer, q (N, heads, d)) → (N, heads · d), over keys and values that are already in their slots."""


class Places(NamedTuple):
    """Where tokens are.

    Attributes:
        cos: (N, d / 2) float32, as is sin.
        sin: see cos.
        slots: (N,) int64 of the cache, or of the tokens' own keys and values.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    slots: torch.Tensor


class Feature(NamedTuple):
    """DeepStack features of one layer: rows (M, hidden), and the row of each token or -1 (N,) int64."""

    values: torch.Tensor
    row: torch.Tensor


def product(x: Input, weight: Fused, dtype: torch.dtype) -> torch.Tensor:
    """(N, K) times (out, K) → (N, out) in `dtype`."""
    values, scale, zero = weight.weight
    if weight.fp8:
        out = x.values.new_empty(len(x.values), len(values), dtype=dtype)
        scaled_linear_into(x.e4m3, weight.e4m3, out)
        return out
    if zero is not None:
        assert scale is not None
        return F.linear(x.values, from_int4(Int4(values, scale, zero), weight.inputs).to(dtype))
    out = x.values.new_empty(len(x.values), len(values))
    linear_into(x.values, values, out)
    return out


def add_product(x: torch.Tensor, h: Input, weight: Fused) -> torch.Tensor | None:
    """x (N, out) += the product of h (N, K).

    Returns:
        (N, out) in the type of x where it could not be added in place: for the next norm to add.
    """
    if weight.fp8:
        return add_e4m3(x, h, weight.e4m3)
    if not weight.plain:
        return product(h, weight, x.dtype)
    linear_into(h.values, weight.weight.values, x, add=True)
    return None


def normed(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    norm: torch.Tensor,
    eps: float,
    reader: Fused,
    feature: Feature | None = None,
) -> Input:
    """x += delta (+ feature) in place, and its norm as `reader` wants it."""
    made = empty_input(x, x.shape[1], reader.fp8)
    rows, row = (None, None) if feature is None else feature
    ops.add_rms_norm(x, delta, norm, eps, made.values, made.scale, reader.input_scale, rows, row)
    return made


def narrowed(x: torch.Tensor, reader: Fused) -> Input:
    """x (N, K) as `reader` wants it."""
    if not reader.fp8:
        return Input(x, None)
    made = empty_input(x, x.shape[1], reader.fp8)
    assert made.scale is not None
    quantize(x, made.values, made.scale, reader.input_scale)
    return made


def layer_of_many(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    layer: int,
    weights: LayerWeights,
    config: TextConfig,
    places: Places,
    keys: torch.Tensor,
    values: torch.Tensor,
    attend: Attend,
    feature: Feature | None = None,
) -> torch.Tensor | None:
    """One layer.

    Args:
        x: (N, hidden) residual stream; delta and feature, which the layer before gave, are added to it, and
            what this layer gives.
        delta: see `add_product`.
        layer: its number.
        weights: its weights.
        config: sizes.
        places: of the tokens.
        keys: (kv heads, slots, d), where the tokens' keys go; as are values.
        values: see keys.
        attend: the attention.
        feature: DeepStack features of the layer before.

    Returns:
        What of it is still to be added: the next layer's delta.
    """
    eps, dtype = config.rms_norm_eps, x.dtype
    h, stream = _read(x, delta, weights.input_norm, eps, weights.qkv, weights.folded, feature)
    q = x.new_empty(len(x), config.num_heads, config.head_dim)
    ops.qk_norm_rope(
        product(h, weights.qkv, dtype), weights.q_norm, weights.k_norm, eps, *places, q, keys, values, stream
    )
    mixed = add_product(x, narrowed(attend(layer, q), weights.o), weights.o)
    h, stream = _read(x, mixed, weights.post_norm, eps, weights.gate_up, weights.folded)
    opened = empty_input(x, config.intermediate_size, weights.down.fp8)
    if weights.gate_up.plain and weights.down.plain:
        gated_linear(h.values, weights.gate_up.weight.values, opened.values, None if stream is None else eps)
    else:
        gate_up = product(h, weights.gate_up, dtype)
        ops.swiglu(gate_up, opened.values, opened.scale, weights.down.input_scale, stream, eps)
    return add_product(x, opened, weights.down)


def _read(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    norm: torch.Tensor,
    eps: float,
    reader: Fused,
    folded: bool,
    feature: Feature | None = None,
) -> tuple[Input, torch.Tensor | None]:
    """What `reader` takes, and the stream itself where what follows it has to do the norm's division."""
    if folded and delta is None and feature is None:
        return Input(x, None), x
    return normed(x, delta, norm, eps, reader, feature), None


def keys_of_many(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weights: LayerWeights,
    config: TextConfig,
    places: Places,
    keys: torch.Tensor,
    values: torch.Tensor,
    feature: Feature | None = None,
) -> None:
    """Keys and values of a layer, and nothing else of it: what the cache needs of the last one."""
    eps = config.rms_norm_eps
    reader = weights.qkv.rows(config.num_heads * config.head_dim)
    h = normed(x, delta, weights.input_norm, eps, reader, feature)
    ops.qk_norm_rope(
        product(h, reader, x.dtype), weights.q_norm, weights.k_norm, eps, *places, None, keys, values
    )

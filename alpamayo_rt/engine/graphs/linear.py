# SPDX-License-Identifier: Apache-2.0
"""Linear layers over many rows, each narrowed or not, and what stands before and behind them.

A layer of FP8 reads e4m3 with a scale a row, which the kernel before it writes: a norm's, an activation's
or one of its own. A layer of INT4 runs as its module does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.kernels.layers.rounding import Gelu, quantize
from alpamayo_rt.kernels.layers.vision import add_layer_norm
from alpamayo_rt.kernels.products.operations import is_one_launch, linear_into, scaled_linear_into
from alpamayo_rt.quantization.formats import E4m3
from alpamayo_rt.quantization.linear import Fp8Linear, QuantizedLinear

Linear = nn.Linear | QuantizedLinear


class Input(NamedTuple):
    """What a product reads: values (N, K), and scales (N, 1) where they are e4m3."""

    values: torch.Tensor
    scale: torch.Tensor | None

    @property
    def e4m3(self) -> E4m3:
        """Of values that have scales."""
        assert self.scale is not None
        return E4m3(self.values, self.scale)


def empty_input(like: torch.Tensor, width: int, fp8: bool) -> Input:
    """Room for (N, width) values, in e4m3 or in the type of `like` (N, …)."""
    n = len(like)
    if not fp8:
        return Input(like.new_empty(n, width), None)
    return Input(like.new_empty(n, width, dtype=torch.float8_e4m3fn), like.new_empty(n, 1, dtype=torch.float32))


def normed(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    norm: nn.LayerNorm,
    shift: torch.Tensor,
    reader: Linear,
    h: torch.Tensor,
) -> Input:
    """x (N, K) += delta, and the norm of x + shift as `reader` wants it: in e4m3, or in `h` (N, K)."""
    made, fixed = Input(h, None), None
    if isinstance(reader, Fp8Linear):
        made, fixed = empty_input(x, x.shape[1], True), reader.input_scale
    add_layer_norm(x, delta, norm.weight, norm.bias, norm.eps, made.values, shift, made.scale, fixed)
    return made


def narrowed(x: torch.Tensor, reader: Linear, gelu: Gelu | None = None) -> Input:
    """x (N, K), or GELU of it, as `reader` wants it."""
    if not isinstance(reader, Fp8Linear):
        return Input(x if gelu is None else F.gelu(x, approximate=gelu), None)
    made = empty_input(x, x.shape[1], True)
    assert made.scale is not None
    quantize(x, made.values, made.scale, reader.input_scale, gelu)
    return made


def linear(x: Input, layer: Linear, out: torch.Tensor | None = None, gelu: bool = False) -> torch.Tensor:
    """The layer, and tanh GELU behind it, into `out` or a new tensor."""
    bias = layer.bias
    if isinstance(layer, QuantizedLinear) and not isinstance(layer, Fp8Linear):
        made = F.gelu(layer(x.values), approximate="tanh") if gelu else layer(x.values)
        return made if out is None else out.copy_(made)
    if out is None:
        like = x.values if bias is None else bias
        out = like.new_empty(len(x.values), layer.out_features)
    if isinstance(layer, Fp8Linear):
        scaled_linear_into(x.e4m3, _weight(layer), out, bias, gelu=gelu)
    else:
        linear_into(x.values, layer.weight, out, bias, gelu=gelu)
    return out


def activated(x: Input, layer: Linear, reader: Linear, gelu: Gelu) -> Input:
    """GELU behind the layer, as `reader` wants it: inside the product, or with the rounding to e4m3.

    Inside it costs a product of e4m3, which is half as long as one of bfloat16, more than the rounding.
    """
    inside = gelu == "tanh" and not (isinstance(layer, Fp8Linear) and isinstance(reader, Fp8Linear))
    return narrowed(linear(x, layer, gelu=inside), reader, None if inside else gelu)


def add_product(x: torch.Tensor, h: Input, layer: Linear) -> torch.Tensor | None:
    """x += the product alone, without the bias.

    Returns:
        What is still to be added: for the next norm, where the library cannot add to x inside the product.
    """
    if isinstance(layer, Fp8Linear):
        return add_e4m3(x, h, _weight(layer))
    if isinstance(layer, QuantizedLinear):
        x += layer(h.values) - layer.bias
    else:
        linear_into(h.values, layer.weight, x, add=True)
    return None


def add_e4m3(x: torch.Tensor, h: Input, weight: E4m3) -> torch.Tensor | None:
    """x (N, out) += the product of h (N, K) and a weight (out, K); returns what `add_product` does."""
    inside = is_one_launch(h.e4m3, weight, x, add=True)
    out = x if inside else torch.empty_like(x)
    scaled_linear_into(h.e4m3, weight, out, add=inside)
    return None if inside else out


def _weight(layer: Fp8Linear) -> E4m3:
    return E4m3(layer.weight, layer.weight_scale)

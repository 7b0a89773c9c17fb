# SPDX-License-Identifier: Apache-2.0
"""Weights as the kernels read them: projections of the same input as one matrix.

Fusing does not double the memory: the modules' own parameters become views of the fused matrix, so that the
modules still work (the eager paths of the engine use them).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from alpamayo_rt.kernels.skinny.weights import SkinnyWeight
from alpamayo_rt.model.decoder import Decoder, DecoderLayer
from alpamayo_rt.quantization.formats import E4m3
from alpamayo_rt.quantization.linear import Fp8Linear, Int4Linear

Linear = nn.Linear | Fp8Linear | Int4Linear


class Fused(NamedTuple):
    """One or more linear layers over the same input.

    Attributes:
        weight: values, scales and zeros as `kernels.skinny` reads them.
        inputs: number of input values.
        input_scale: () float32, of fp8 layers with a fixed one.
    """

    weight: SkinnyWeight
    inputs: int
    input_scale: torch.Tensor | None = None

    @property
    def fp8(self) -> bool:
        """Whether a product of many tokens wants its input in e4m3."""
        return self.weight.values.dtype == torch.float8_e4m3fn

    @property
    def e4m3(self) -> E4m3:
        """Of a layer of FP8."""
        assert self.weight.scale is not None
        return E4m3(self.weight.values, self.weight.scale)

    @property
    def plain(self) -> bool:
        """Whether its values are what they stand for."""
        return self.weight.scale is None and self.weight.zero is None

    def rows(self, first: int) -> Fused:
        """Without the outputs before `first`."""
        values, scale, zero = self.weight
        left = (None if part is None else part[first:] for part in (scale, zero))
        return self._replace(weight=SkinnyWeight(values[first:], *left))


class LayerWeights(NamedTuple):
    """A decoder layer.

    Attributes:
        folded: the two norms' weights are part of `qkv` and `gate_up`, and are ones themselves.
    """

    input_norm: torch.Tensor
    qkv: Fused
    q_norm: torch.Tensor
    k_norm: torch.Tensor
    o: Fused
    post_norm: torch.Tensor
    gate_up: Fused
    down: Fused
    folded: bool = False


def _tensors(linear: Linear) -> dict[str, torch.Tensor | None]:
    """Tensor of SkinnyWeight → parameter of the module."""
    scale = getattr(linear, "weight_scale", None)
    return {"weight": linear.weight, "weight_scale": scale, "weight_zero": getattr(linear, "weight_zero", None)}


def fuse(*linears: Linear) -> Fused:
    """Stack the outputs of layers of one kind."""
    parts = [_tensors(linear) for linear in linears]
    fused: dict[str, torch.Tensor | None] = {}
    for name, first in parts[0].items():
        if first is None or len(parts) == 1:
            fused[name] = None if first is None else first.detach()
            continue
        own = [tensor.detach() for part in parts if (tensor := part[name]) is not None]
        whole = fused[name] = torch.cat(own)
        for linear, view in zip(linears, whole.split([len(tensor) for tensor in own]), strict=True):
            linear.register_parameter(name, nn.Parameter(view, requires_grad=False))
    values = fused["weight"]
    assert values is not None
    weight = SkinnyWeight(values, fused["weight_scale"], fused["weight_zero"])
    return Fused(weight, linears[0].in_features, getattr(linears[0], "input_scale", None))


def layer_weights(decoder: Decoder) -> list[LayerWeights]:
    """All layers of a decoder, fused."""
    layers = []
    for layer in decoder.layers:
        assert isinstance(layer, DecoderLayer)
        attention, mlp = layer.self_attn, layer.mlp
        layers.append(
            LayerWeights(
                layer.input_layernorm.weight,
                fuse(attention.q_proj, attention.k_proj, attention.v_proj),
                attention.q_norm.weight,
                attention.k_norm.weight,
                fuse(attention.o_proj),
                layer.post_attention_layernorm.weight,
                fuse(mlp.gate_proj, mlp.up_proj),
                fuse(mlp.down_proj),
            )
        )
        if layers[-1].input_norm.is_cuda:
            # What was fused is free, but in pieces that fit no later layer: kept, they would fill the card.
            torch.cuda.empty_cache()
    return layers


def fold(layers: list[LayerWeights]) -> list[LayerWeights]:
    """Multiply the norms' weights into the products behind them, where these are not narrowed.

    Then a product may take the stream as it stands, and what follows it divides by the root mean square: one
    launch less for each. The modules stay what they were, as their norms' weights become ones. Not in float16,
    whose range is too short for products of a stream that was not divided.
    """
    made = []
    for layer in layers:
        products = (layer.qkv, layer.gate_up, layer.down)
        plain = all(product.weight.values.dtype in (torch.bfloat16, torch.float32) for product in products)
        if plain:
            for norm, reader in ((layer.input_norm, layer.qkv), (layer.post_norm, layer.gate_up)):
                reader.weight.values.mul_(norm)
                norm.fill_(1)
        made.append(layer._replace(folded=plain))
    return made

# SPDX-License-Identifier: Apache-2.0
"""The vision tower over images of one size, with the bias and GELU inside the products."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.kernels.layers.vision import add_layer_norm, rotate_patches
from alpamayo_rt.model.vision import VisionFeatures, VisionTower
from alpamayo_rt.quantization.linear import QuantizedLinear


class VisionRun:
    """Static buffers and the work for some images of one size."""

    def __init__(self, tower: VisionTower, images: int, rows: int, columns: int, like: torch.Tensor):
        c = tower.config
        self.tower, self.images = tower, images
        values = c.in_channels * c.temporal_patch_size * c.patch_size**2
        self.patches = like.new_zeros(images, rows * columns, values)
        self.positions, cos, sin = tower.places(rows, columns)
        # The halves of a head have the same angles.
        half = cos.shape[1] // 2
        self.cos, self.sin = cos[:, :half].contiguous(), sin[:, :half].contiguous()
        tokens = images * rows * columns // c.merge_size**2
        features = 1 + len(c.deepstack_layers)
        self.features = like.new_zeros(features, tokens, c.out_hidden_size)

    def __call__(self) -> None:
        """`patches` → `features`."""
        tower, c = self.tower, self.tower.config
        x = (tower.patch_embed(self.patches) + self.positions).flatten(0, 1)
        head_dim = c.hidden_size // c.num_heads
        taps: dict[int, torch.Tensor] = {}
        h, delta = torch.empty_like(x), None
        q, k = (x.new_empty(len(x), c.num_heads, head_dim) for _ in range(2))
        for i, block in enumerate(tower.blocks):
            add_layer_norm(x, delta, block.norm1.weight, block.norm1.bias, block.norm1.eps, h)
            qkv = _linear(h, block.attn.qkv)
            rotate_patches(qkv, self.cos, self.sin, q, k)
            v = qkv.view(len(x), 3, c.num_heads, head_dim)[:, 2]
            heads = [t.unflatten(0, (self.images, -1)).transpose(1, 2) for t in (q, k, v)]
            mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(len(x), -1)
            add_layer_norm(x, _linear(mixed, block.attn.proj), block.norm2.weight, block.norm2.bias,
                           block.norm2.eps, h)  # fmt: skip
            delta = _linear(_linear_gelu(h, block.mlp.linear_fc1), block.mlp.linear_fc2)
            if i in c.deepstack_layers:
                tap = c.deepstack_layers.index(i)
                taps[tap] = tower.deepstack_merger_list[tap](x + delta)
        assert delta is not None
        made = [tower.merger(x + delta), *(taps[i] for i in range(len(taps)))]
        for target, source in zip(self.features, made, strict=True):
            target.copy_(source)

    def result(self) -> VisionFeatures:
        """A copy of what the last run made."""
        embeds, *deepstack = self.features.clone()
        return VisionFeatures(embeds, tuple(deepstack))


def _linear(x: torch.Tensor, layer: nn.Linear | QuantizedLinear) -> torch.Tensor:
    if isinstance(layer, QuantizedLinear) or not x.is_cuda:
        return layer(x)
    return torch.addmm(layer.bias, x, layer.weight.t())


def _linear_gelu(x: torch.Tensor, layer: nn.Linear | QuantizedLinear) -> torch.Tensor:
    if isinstance(layer, QuantizedLinear) or not x.is_cuda:
        return F.gelu(layer(x), approximate="tanh")
    # One product with bias and tanh GELU behind it in the library.
    return torch._addmm_activation(layer.bias, x, layer.weight.t(), use_gelu=True)

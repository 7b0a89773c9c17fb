# SPDX-License-Identifier: Apache-2.0
"""The vision tower over images of one size: residuals are added, and GELU applied, inside the products."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.kernels.attention.patches import patch_attention
from alpamayo_rt.kernels.layers.vision import add_layer_norm
from alpamayo_rt.model.vision import VisionBlock, VisionFeatures, VisionTower
from alpamayo_rt.quantization.linear import QuantizedLinear

Linear = nn.Linear | QuantizedLinear


class VisionRun:
    """Static buffers and the work for some images of one size.

    A product can add to the residual stream where it is written, but not its bias as well. So the stream is
    kept without the biases of the layers that add to it, and their sum so far is added where it is read.
    """

    def __init__(self, tower: VisionTower, images: int, rows: int, columns: int):
        c, like = tower.config, tower.pos_embed.weight
        self.tower, self.images = tower, images
        values = c.in_channels * c.temporal_patch_size * c.patch_size**2
        self.patches = like.new_zeros(images, rows * columns, values)
        self.positions, cos, sin = tower.places(rows, columns)
        # The halves of a head have the same angles.
        half = cos.shape[1] // 2
        self.cos, self.sin = cos[:, :half].contiguous(), sin[:, :half].contiguous()
        tokens = images * rows * columns // c.merge_size**2
        self.features = like.new_zeros(1 + len(c.deepstack_layers), tokens, c.out_hidden_size)
        self._shifts = _running_biases(tower)

    def __call__(self) -> None:
        """`patches` → `features`."""
        tower, c = self.tower, self.tower.config
        x = (tower.patch_embed(self.patches) + self.positions).flatten(0, 1)
        h = torch.empty_like(x)
        taps: dict[int, torch.Tensor] = {}
        for i, block in enumerate(tower.blocks):
            assert isinstance(block, VisionBlock)
            self._block(x, h, block, *self._shifts[2 * i : 2 * i + 2])
            if i in c.deepstack_layers:
                tap = c.deepstack_layers.index(i)
                taps[tap] = tower.deepstack_merger_list[tap](self._whole(x, i))
        made = [tower.merger(self._whole(x, len(tower.blocks) - 1)), *(taps[i] for i in range(len(taps)))]
        for target, source in zip(self.features, made, strict=True):
            target.copy_(source)

    def _block(
        self, x: torch.Tensor, h: torch.Tensor, block: VisionBlock, before: torch.Tensor, between: torch.Tensor
    ) -> None:
        """One block over the stream x, in place; `h` is room for what lies between."""
        norm = block.norm1
        add_layer_norm(x, None, norm.weight, norm.bias, norm.eps, h, before)
        qkv = block.attn.qkv(h)
        heads = h.unflatten(1, (block.attn.num_heads, -1))
        patch_attention(qkv, self.cos, self.sin, heads)
        _add_product(x, h, block.attn.proj)
        norm = block.norm2
        add_layer_norm(x, None, norm.weight, norm.bias, norm.eps, h, between)
        _add_product(x, _linear_gelu(h, block.mlp.linear_fc1), block.mlp.linear_fc2)

    def _whole(self, x: torch.Tensor, block: int) -> torch.Tensor:
        """The stream behind a block with all its biases."""
        return x + self._shifts[2 * block + 2].to(x.dtype)

    def result(self) -> VisionFeatures:
        """A copy of what the last run made."""
        embeds, *deepstack = self.features.clone()
        return VisionFeatures(embeds, tuple(deepstack))


def _running_biases(tower: VisionTower) -> torch.Tensor:
    """(2 · depth + 1, hidden) float32: what the stream lacks before each of its readers, and at the end."""
    biases: list[torch.Tensor] = []
    for block in tower.blocks:
        assert isinstance(block, VisionBlock)
        biases += [block.attn.proj.bias.float(), block.mlp.linear_fc2.bias.float()]
    return torch.stack([torch.zeros_like(biases[0]), *biases]).cumsum(0)


def _add_product(x: torch.Tensor, h: torch.Tensor, layer: Linear) -> None:
    """x += the product alone, without the bias."""
    if isinstance(layer, QuantizedLinear):
        x += layer(h) - layer.bias
    else:
        x.addmm_(h, layer.weight.t())


def _linear_gelu(x: torch.Tensor, layer: Linear) -> torch.Tensor:
    if isinstance(layer, QuantizedLinear) or not x.is_cuda:
        return F.gelu(layer(x), approximate="tanh")
    # One product with bias and tanh GELU behind it in the library.
    return torch._addmm_activation(layer.bias, x, layer.weight.t(), use_gelu=True)

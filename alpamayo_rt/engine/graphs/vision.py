# SPDX-License-Identifier: Apache-2.0
"""The vision tower over images of one size: residuals are added, and GELU applied, inside the products."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.kernels.layers.vision import add_layer_norm, rotate_patches
from alpamayo_rt.kernels.products.operations import linear_into
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
        q, k = (x.new_empty(len(x), c.num_heads, c.hidden_size // c.num_heads) for _ in range(2))
        taps: dict[int, torch.Tensor] = {}
        for i, block in enumerate(tower.blocks):
            assert isinstance(block, VisionBlock)
            self._block(x, h, q, k, block, *self._shifts[2 * i : 2 * i + 2])
            if i in c.deepstack_layers:
                tap = c.deepstack_layers.index(i)
                taps[tap] = tower.deepstack_merger_list[tap](self._whole(x, i))
        made = [tower.merger(self._whole(x, len(tower.blocks) - 1)), *(taps[i] for i in range(len(taps)))]
        for target, source in zip(self.features, made, strict=True):
            target.copy_(source)

    def _block(
        self,
        x: torch.Tensor,
        h: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        block: VisionBlock,
        before: torch.Tensor,
        between: torch.Tensor,
    ) -> None:
        """One block over the stream x, in place; `h`, `q` and `k` are room for what lies between."""
        norm = block.norm1
        add_layer_norm(x, None, norm.weight, norm.bias, norm.eps, h, before)
        qkv = _linear(h, block.attn.qkv)
        rotate_patches(qkv, self.cos, self.sin, q, k)
        v = qkv.view(len(x), 3, *q.shape[1:])[:, 2]
        heads = [t.unflatten(0, (self.images, -1)).transpose(1, 2) for t in (q, k, v)]
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(len(x), -1)
        _add_product(x, mixed, block.attn.proj)
        norm = block.norm2
        add_layer_norm(x, None, norm.weight, norm.bias, norm.eps, h, between)
        _add_product(x, _linear(h, block.mlp.linear_fc1, gelu=True), block.mlp.linear_fc2)

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
        linear_into(h, layer.weight, x, add=True)


def _linear(x: torch.Tensor, layer: Linear, gelu: bool = False) -> torch.Tensor:
    """The layer, and tanh GELU behind it."""
    if isinstance(layer, QuantizedLinear):
        return F.gelu(layer(x), approximate="tanh") if gelu else layer(x)
    out = x.new_empty(len(x), layer.out_features)
    linear_into(x, layer.weight, out, layer.bias, gelu=gelu)
    return out

# SPDX-License-Identifier: Apache-2.0
"""The vision tower over images of one size: residuals are added, and GELU applied, inside the products."""

from __future__ import annotations

import torch

from alpamayo_rt.engine.graphs.linear import activated, add_product, linear, narrowed, normed
from alpamayo_rt.kernels.attention.angles import PatchAngles
from alpamayo_rt.kernels.attention.patches import patch_attention
from alpamayo_rt.kernels.layers.vision import add_layer_norm
from alpamayo_rt.model.vision import PatchMerger, VisionBlock, VisionFeatures, VisionTower


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
        positions, cos, sin = tower.places(rows, columns)
        bias = tower.patch_embed.proj.bias
        assert bias is not None
        # What is added to the product of the patches.
        self._start = (positions + bias).repeat(images, 1)
        # The halves of a head have the same angles.
        half = cos.shape[1] // 2
        self.cos, self.sin = cos[:, :half].contiguous(), sin[:, :half].contiguous()
        self._angles = PatchAngles.of(self.cos, self.sin)
        tokens = images * rows * columns // c.merge_size**2
        self.features = like.new_zeros(1 + len(c.deepstack_layers), tokens, c.out_hidden_size)
        self._shifts = _running_biases(tower)

    def __call__(self) -> None:
        """`patches` → `features`."""
        tower, c = self.tower, self.tower.config
        weight = tower.patch_embed.proj.weight.flatten(1)
        x = torch.addmm(self._start, self.patches.flatten(0, 1), weight.t())
        h, delta = torch.empty_like(x), None
        for i, block in enumerate(tower.blocks):
            assert isinstance(block, VisionBlock)
            delta = self._block(x, delta, h, block, *self._shifts[2 * i : 2 * i + 2])
            if i in c.deepstack_layers:
                tap = c.deepstack_layers.index(i)
                merger = tower.deepstack_merger_list[tap]
                assert isinstance(merger, PatchMerger)
                _merge(x, delta, h, merger, self._shifts[2 * i + 2], self.features[1 + tap])
                delta = None
        _merge(x, delta, h, tower.merger, self._shifts[-1], self.features[0])

    def _block(
        self,
        x: torch.Tensor,
        delta: torch.Tensor | None,
        h: torch.Tensor,
        block: VisionBlock,
        before: torch.Tensor,
        between: torch.Tensor,
    ) -> torch.Tensor | None:
        """One block over the stream x + delta, in place in x; `h` is room for what lies between.

        Returns:
            What of it is still to be added to x.
        """
        attn, mlp = block.attn, block.mlp
        qkv = linear(normed(x, delta, block.norm1, before, attn.qkv, h), attn.qkv)
        heads = h.unflatten(1, (attn.num_heads, -1))
        patch_attention(qkv, self.cos, self.sin, heads, angles=self._angles)
        delta = add_product(x, narrowed(h, attn.proj), attn.proj)
        opened = normed(x, delta, block.norm2, between, mlp.linear_fc1, h)
        return add_product(x, activated(opened, mlp.linear_fc1, mlp.linear_fc2, "tanh"), mlp.linear_fc2)

    def result(self, copy: bool) -> VisionFeatures:
        """What the last run made: a copy, or what the next run overwrites."""
        embeds, *deepstack = self.features.clone() if copy else self.features
        return VisionFeatures(embeds, tuple(deepstack))


def _merge(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    h: torch.Tensor,
    merger: PatchMerger,
    shift: torch.Tensor,
    target: torch.Tensor,
) -> None:
    """x += delta, and the merger of it with its biases `shift`, into `target`; `h` is room."""
    width, merged = merger.norm.normalized_shape[0], merger.merged
    wide, given = x.view(-1, width), None if delta is None else delta.view(-1, width)
    shift, room = shift.repeat(width // len(shift)), h.view(-1, width)
    if width == merged:
        whole = normed(wide, given, merger.norm, shift, merger.linear_fc1, room)
    else:
        # A scale covers several rows of the norm.
        add_layer_norm(wide, given, merger.norm.weight, merger.norm.bias, merger.norm.eps, room, shift)
        whole = narrowed(h.view(-1, merged), merger.linear_fc1)
    linear(activated(whole, merger.linear_fc1, merger.linear_fc2, "none"), merger.linear_fc2, target)


def _running_biases(tower: VisionTower) -> torch.Tensor:
    """(2 · depth + 1, hidden) float32: what the stream lacks before each of its readers, and at the end."""
    biases: list[torch.Tensor] = []
    for block in tower.blocks:
        assert isinstance(block, VisionBlock)
        biases += [block.attn.proj.bias.float(), block.mlp.linear_fc2.bias.float()]
    return torch.stack([torch.zeros_like(biases[0]), *biases]).cumsum(0)

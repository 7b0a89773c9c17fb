# SPDX-License-Identifier: Apache-2.0
"""The vision tower over images of one size: residuals are added, and GELU applied, inside the products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch

from alpamayo_rt.engine.graphs.beside import Beside
from alpamayo_rt.engine.graphs.linear import activated, add_product, linear, narrowed, normed
from alpamayo_rt.kernels.attention.angles import PatchAngles
from alpamayo_rt.kernels.attention.patches import patch_attention
from alpamayo_rt.kernels.layers.vision import add_layer_norm
from alpamayo_rt.kernels.products.operations import linear_into
from alpamayo_rt.model.vision import PatchMerger, VisionBlock, VisionFeatures, VisionTower

_FEWEST, _FIRST = 8, 9 / 16
"""From so many images on they run in two parts, the first with this share of them."""


class VisionRun:
    """Static buffers and the work for some images of one size.

    A product can add to the residual stream where it is written, but not its bias as well. So the stream is
    kept without the biases of the layers that add to it, and their sum so far is added where it is read.
    """

    def __init__(self, tower: VisionTower, images: int, rows: int, columns: int, beside: Beside):
        c, like = tower.config, tower.pos_embed.weight
        self.images, self._beside = images, beside
        values = c.in_channels * c.temporal_patch_size * c.patch_size**2
        self._patches = like.new_zeros(images * rows * columns, values)
        positions, cos, sin = tower.places(rows, columns)
        bias = tower.patch_embed.proj.bias
        assert bias is not None
        # What is added to the product of the patches.
        self._start = (positions + bias).repeat(images, 1)
        self._weight = tower.patch_embed.proj.weight.flatten(1)
        self._stream = torch.zeros_like(self._start)
        tokens = rows * columns // c.merge_size**2
        self.features = like.new_zeros(1 + len(c.deepstack_layers), images * tokens, c.out_hidden_size)
        work, self._parts = _Blocks(tower, cos, sin), list[Callable[[], None]]()
        for first, end in division(images):
            stream = self._stream[first * rows * columns : end * rows * columns]
            self._parts.append(partial(work, stream, self.features[:, first * tokens : end * tokens]))

    def take(self, patches: torch.Tensor | Sequence[torch.Tensor]) -> None:
        """Patches (images, n, values) of any floating type, or those of each image."""
        if isinstance(patches, torch.Tensor):
            self._patches.copy_(patches.flatten(0, 1))
        else:
            torch.cat(list(patches), out=self._patches)

    def __call__(self) -> None:
        """What was taken → `features`."""
        linear_into(self._patches, self._weight, self._stream, add=True, base=self._start)
        self._beside.run(self._parts)

    def result(self) -> VisionFeatures:
        """What the last run made, and the next overwrites."""
        embeds, *deepstack = self.features
        return VisionFeatures(embeds, tuple(deepstack))


def division(images: int) -> list[tuple[int, int]]:
    """Which images run side by side: [first, end) of each part.

    A kernel's last blocks leave most of a GPU idle; of many images a part fills what another leaves. Few are
    faster as one, whose products are larger. Two equal parts would end their kernels together.
    """
    first = images if images < _FEWEST else math.ceil(images * _FIRST)
    return [(0, first), (first, images)][: 1 + (first < images)]


class _Blocks:
    """The work between patches and features, for images of one size."""

    def __init__(self, tower: VisionTower, cos: torch.Tensor, sin: torch.Tensor):
        self.tower = tower
        # The halves of a head have the same angles.
        half = cos.shape[1] // 2
        self.cos, self.sin = cos[:, :half].contiguous(), sin[:, :half].contiguous()
        self._angles = PatchAngles.of(self.cos, self.sin)
        self._shifts = _running_biases(tower)

    def __call__(self, x: torch.Tensor, features: torch.Tensor) -> None:
        """The stream x (patches of all images, hidden), in place → features (1 + taps, tokens, out)."""
        tower, c = self.tower, self.tower.config
        h, delta = torch.empty_like(x), None
        for i, block in enumerate(tower.blocks):
            assert isinstance(block, VisionBlock)
            delta = self._block(x, delta, h, block, *self._shifts[2 * i : 2 * i + 2])
            if i in c.deepstack_layers:
                tap = c.deepstack_layers.index(i)
                merger = tower.deepstack_merger_list[tap]
                assert isinstance(merger, PatchMerger)
                _merge(x, delta, h, merger, self._shifts[2 * i + 2], features[1 + tap])
                delta = None
        _merge(x, delta, h, tower.merger, self._shifts[-1], features[0])

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

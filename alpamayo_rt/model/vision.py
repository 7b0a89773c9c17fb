# SPDX-License-Identifier: Apache-2.0
"""The vision tower (Qwen3-VL): patches → image tokens and DeepStack features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.config import VisionConfig
from alpamayo_rt.model.embedding import embedding
from alpamayo_rt.model.rotary import inverse_frequencies, rotate

_EPS = 1e-6
ROPE_THETA = 10_000.0


class VisionFeatures:
    """Image tokens and DeepStack features; images one after the other."""

    def __init__(self, embeds: torch.Tensor, deepstack: Sequence[torch.Tensor]):
        self._embeds, self._deepstack = embeds, tuple(deepstack)

    @property
    def embeds(self) -> torch.Tensor:
        """(tokens, out)"""
        return self._embeds

    @property
    def deepstack(self) -> tuple[torch.Tensor, ...]:
        """(tokens, out) of each tap."""
        return self._deepstack

    def copy_to(self, target: torch.Tensor) -> None:
        """Into (1 + taps, tokens, out), the image tokens first."""
        for part, source in zip(target, (self.embeds, *self.deepstack), strict=True):
            part.copy_(source)


class PatchEmbed(nn.Module):
    """A linear map from patch values, stored as the 3-D convolution it came from."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        kernel = (c.temporal_patch_size, c.patch_size, c.patch_size)
        self.proj = nn.Conv3d(c.in_channels, c.hidden_size, kernel, stride=kernel)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(…, values) → (…, hidden)."""
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionAttention(nn.Module):
    """Full attention among the patches of one image."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.num_heads = c.num_heads
        self.qkv = nn.Linear(c.hidden_size, 3 * c.hidden_size)
        self.proj = nn.Linear(c.hidden_size, c.hidden_size)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(images, patches, hidden) → the same."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin)
        return self.proj(F.scaled_dot_product_attention(q, k, qkv[2]).transpose(1, 2).flatten(2))


class VisionMLP(nn.Module):
    """Two linear maps around a tanh GELU."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.linear_fc1 = nn.Linear(c.hidden_size, c.intermediate_size)
        self.linear_fc2 = nn.Linear(c.intermediate_size, c.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, hidden) → (…, hidden)."""
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to the residual."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.hidden_size, _EPS)
        self.norm2 = nn.LayerNorm(c.hidden_size, _EPS)
        self.attn = VisionAttention(c)
        self.mlp = VisionMLP(c)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(images, patches, hidden) → the same."""
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """Four patches of a block → one token; `concatenate_first` says where the LayerNorm stands."""

    def __init__(self, c: VisionConfig, concatenate_first: bool):
        super().__init__()
        self.merged = c.hidden_size * c.merge_size**2
        self.concatenate_first = concatenate_first
        self.norm = nn.LayerNorm(self.merged if concatenate_first else c.hidden_size, _EPS)
        self.linear_fc1 = nn.Linear(self.merged, self.merged)
        self.linear_fc2 = nn.Linear(self.merged, c.out_hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(images, patches, hidden) → (images · patches / 4, out)."""
        x = self.norm(x.reshape(-1, self.merged)) if self.concatenate_first else self.norm(x)
        return self.linear_fc2(F.gelu(self.linear_fc1(x.reshape(-1, self.merged))))


class VisionTower(nn.Module):
    """Patches of images of one size → tokens. Images never see each other."""

    def __init__(self, c: VisionConfig):
        super().__init__()
        self.config = c
        self.patch_embed = PatchEmbed(c)
        self.pos_embed = embedding(c.num_position_embeddings, c.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(c) for _ in range(c.depth))
        self.merger = PatchMerger(c, concatenate_first=False)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(c, concatenate_first=True) for _ in c.deepstack_layers
        )

    def forward(self, patches: torch.Tensor, rows: int, columns: int) -> VisionFeatures:
        """Encode images of one size.

        Args:
            patches: (images, rows·columns, values) in block order.
            rows: patch rows of each image.
            columns: patch columns of each image.

        Returns:
            Tokens of all images, image by image, and the DeepStack features.
        """
        return self.encode(patches, *self.places(rows, columns))

    def places(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Position embeddings, cosines and sines of an image's patches, as `encode` takes them."""
        return self._position_embedding(rows, columns), *self._rotary(rows, columns)

    def encode(
        self, patches: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> VisionFeatures:
        """Encode patches whose places are already known.

        Args:
            patches: (images, n, values) in block order.
            positions: (n, hidden) position embeddings, in the model's type.
            cos: (n, head_dim) float32 rotary positions, as is sin.
            sin: see cos.
        """
        x = self.patch_embed(patches) + positions
        taps: dict[int, torch.Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x, cos, sin)
            if i in self.config.deepstack_layers:
                # Features belong to taps in the order of the config, which need not be ascending.
                tap = self.config.deepstack_layers.index(i)
                taps[tap] = self.deepstack_merger_list[tap](x)
        return VisionFeatures(self.merger(x), tuple(taps[i] for i in range(len(taps))))

    def _block_order(self, grid: torch.Tensor) -> torch.Tensor:
        """(rows, columns, …) → (rows·columns, …), merge blocks row-major, row-major inside a block."""
        m = self.config.merge_size
        rows, columns = grid.shape[:2]
        blocks = grid.unflatten(1, (columns // m, m)).unflatten(0, (rows // m, m)).transpose(1, 2)
        return blocks.flatten(0, 3)

    def _rotary(self, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.pos_embed.weight.device
        head_dim = self.config.hidden_size // self.config.num_heads
        frequencies = inverse_frequencies(head_dim // 2, ROPE_THETA, device)
        row = torch.arange(rows, device=device).float()[:, None] * frequencies
        column = torch.arange(columns, device=device).float()[:, None] * frequencies
        grid = torch.cat([row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)], -1)
        angles = self._block_order(grid).repeat(1, 2)
        return angles.cos(), angles.sin()

    def _position_embedding(self, rows: int, columns: int) -> torch.Tensor:
        """The square table of learned positions, interpolated bilinearly to rows × columns, in block order."""
        table = self.pos_embed.weight
        side = round(self.config.num_position_embeddings**0.5)

        def corners(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            at = torch.linspace(0, side - 1, n, device=table.device)
            low = at.long()
            return low, (low + 1).clamp(max=side - 1), at - low

        top, bottom, down = corners(rows)
        left, right, across = corners(columns)

        def row_of(r: torch.Tensor) -> torch.Tensor:
            near, far = table[r[:, None] * side + left], table[r[:, None] * side + right]
            return near.float() * (1 - across)[:, None] + far.float() * across[:, None]

        grid = row_of(top) * (1 - down)[:, None, None] + row_of(bottom) * down[:, None, None]
        return self._block_order(grid).to(table.dtype)

# SPDX-License-Identifier: Apache-2.0
"""The vision tower as a module to trace: the grid is an input, whatever follows from it is computed inside."""

from __future__ import annotations

import torch
from torch import nn

from alpamayo_rt.model.rotary import inverse_frequencies
from alpamayo_rt.model.vision import ROPE_THETA, VisionTower


class ExportedVision(nn.Module):
    """Patches of images of one size → tokens and DeepStack features."""

    frequencies: torch.Tensor

    def __init__(self, tower: VisionTower):
        super().__init__()
        self.vision = tower
        c = tower.config
        self.side = round(c.num_position_embeddings**0.5)
        frequencies = inverse_frequencies(c.hidden_size // c.num_heads // 2, ROPE_THETA, torch.device("cpu"))
        self.register_buffer("frequencies", frequencies)

    def forward(self, pixel_values: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `engine.bindings.vision_bindings`; `grid` is (rows, columns)."""
        row, column = self._places(pixel_values.shape[1], grid)
        angles = torch.cat([row[:, None] * self.frequencies, column[:, None] * self.frequencies], 1)
        angles = torch.cat([angles, angles], 1)
        position = self._position_embedding(row, column, grid)
        dtype = position.dtype
        features = self.vision.encode(pixel_values.to(dtype), position, angles.cos(), angles.sin())
        return features.embeds, *features.deepstack

    def _places(self, n: int, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) float32 row and column of each patch: merge blocks row-major, row-major inside a block."""
        m = self.vision.config.merge_size
        block, inside = _divide(torch.arange(n).float(), m * m)
        down, right = _divide(inside, m)
        block_row, block_column = _divide(block, grid[1:].float() / m)
        return block_row * m + down, block_column * m + right

    def _position_embedding(self, row: torch.Tensor, column: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """The square table of learned positions, interpolated bilinearly, (n, hidden)."""
        table = self.vision.pos_embed.weight
        size = grid.float()
        top, bottom, down = self._corners(row, size[:1])
        left, right, across = self._corners(column, size[1:])

        def between(r: torch.Tensor) -> torch.Tensor:
            near, far = (table.index_select(0, r * self.side + c).float() for c in (left, right))
            return near * (1 - across)[:, None] + far * across[:, None]

        mixed = between(top) * (1 - down)[:, None] + between(bottom) * down[:, None]
        return mixed.to(table.dtype)

    def _corners(
        self, place: torch.Tensor, count: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of places in 0 … count − 1: the table rows below and above, and how far between them.

        The points are those of torch.linspace, which counts from the nearer end.
        """
        last = float(self.side - 1)
        step = last / (count - 1)
        at = torch.where(place < count / 2, place * step, last - (count - 1 - place) * step)
        low = at.long()
        return low, (low + 1).clamp(max=self.side - 1), at - low


def _divide(a: torch.Tensor, b: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quotient and remainder of whole numbers in float32, where they are exact up to 2²⁴."""
    quotient = torch.floor(a / b)
    return quotient, a - quotient * b

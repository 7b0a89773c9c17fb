# SPDX-License-Identifier: Apache-2.0
"""Three-component positions of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def mrope_positions(
    ids: Sequence[int], image_pad: int, grids: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, int]:
    """Positions of every token of a prompt.

    Args:
        ids: the prompt; every run of `image_pad` belongs to the next of `grids`.
        image_pad: the placeholder's id.
        grids: (rows, columns) of each image after merging.

    Returns:
        (3, L) int64 positions, and the rope delta: last position + 1 − L.
    """
    parts: list[torch.Tensor] = []
    images = iter(grids)
    next_position = at = 0
    while at < len(ids):
        if ids[at] == image_pad:
            rows, columns = next(images)
            grid = torch.stack(
                [
                    torch.zeros(rows, columns, dtype=torch.long),
                    torch.arange(rows)[:, None].expand(rows, columns),
                    torch.arange(columns).expand(rows, columns),
                ]
            )
            parts.append(grid.flatten(1) + next_position)
            next_position += max(rows, columns)
            at += rows * columns
        else:
            end = at
            while end < len(ids) and ids[end] != image_pad:
                end += 1
            parts.append(torch.arange(next_position, next_position + end - at).expand(3, -1))
            next_position += end - at
            at = end
    return torch.cat(parts, 1), next_position - len(ids)

# SPDX-License-Identifier: Apache-2.0
"""Rotary angles of an image's patches, each distinct one kept once.

The first half of a patch's angles belongs to its row in the image and the second to its column; both count from
0. So a grid of 20 by 36 patches has 36 distinct halves among 1440: few enough for a GPU's fastest cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PatchAngles:
    """Cosines and sines of n angles for each of P patches; right for any, small for grids.

    Attributes:
        table: (R, n / 2, 2) float32, distinct halves: cosine and sine of each angle.
        places: (P, 2) int32, the rows of the table that are a patch's first and second half.
    """

    table: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of(cls, cos: torch.Tensor, sin: torch.Tensor) -> PatchAngles:
        """Find the distinct halves; waits for the GPU, so not while a graph is captured.

        Args:
            cos: (P, n) float32, n even, as is sin.
            sin: see cos.

        Raises:
            ValueError: n is odd.
        """
        patches, angles = cos.shape
        if angles % 2:
            raise ValueError(f"angles of a patch: {angles}, expected an even number")
        halves = torch.stack([cos, sin], -1).view(2 * patches, angles // 2 * 2)
        # As integers, so that 0 and -0 stay apart.
        rows, places = halves.view(torch.int32).unique(dim=0, return_inverse=True)
        table = rows.view(torch.float32).view(-1, angles // 2, 2)
        return cls(table.contiguous(), places.view(patches, 2).to(torch.int32).contiguous())

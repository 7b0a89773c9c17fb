# SPDX-License-Identifier: Apache-2.0
"""Vision features of frames that earlier requests had.

The tower treats each image alone, so the features of a frame are the same in every window that it is part of.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch

from alpamayo_rt.engine.images import Encode, encode_by_size
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images


class FrameCache:
    """Features by the caller's frame id and the frame's size; the least recently used go first.

    Attributes:
        most: how many frames are kept; one of 320×576 takes 5.6 MiB at the released sizes.
    """

    def __init__(self, most: int = 64):
        self.most = most
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()  # (1 + taps, tokens, hidden)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget all frames."""
        self._kept.clear()

    def encode(
        self, images: Images, pixels: torch.Tensor, ids: Sequence[Hashable], encode: Encode
    ) -> VisionFeatures:
        """Features of all images in their order; only frames that are not kept are encoded.

        Args:
            images: gives the grid.
            pixels: (patches, values) of all images.
            ids: one for each image. The same id means the same picture, always.
            encode: see `encode_by_size`.
        """
        grid = [tuple(row) for row in images.grid.tolist()]
        keys = [(name, size) for name, size in zip(ids, grid, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self._kept and key not in keys[:i]]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        if new:
            patches = pixels.split([h * w for _, h, w in grid])
            part = Images(torch.cat([patches[i] for i in new]), images.grid[new])
            made = encode_by_size(part, part.pixel_values, encode)
            counts = [len(made.embeds) * h * w // sum(grid[i][1] * grid[i][2] for i in new)
                      for _, h, w in (grid[i] for i in new)]  # fmt: skip
            parts = zip(*(f.split(counts) for f in (made.embeds, *made.deepstack)), strict=True)
            for i, features in zip(new, parts, strict=True):
                # A copy: a part of what was encoded together would keep all of it in memory.
                found[keys[i]] = torch.stack(features)
        for key in keys:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        # One launch, where the features of a window are 90 MB in 64 pieces.
        embeds, *deepstack = torch.cat([found[key] for key in keys], 1)
        return VisionFeatures(embeds, tuple(deepstack))

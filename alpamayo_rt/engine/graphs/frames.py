# SPDX-License-Identifier: Apache-2.0
"""Vision features of frames that earlier requests had.

The tower treats each image alone, so the features of a frame are the same in every window that it is part of.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property

import torch

from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images

EncodeFrames = Callable[[Sequence[torch.Tensor], int, int], VisionFeatures]
"""(patches (n, values) of each image, patch rows and columns) → features, which the next call may overwrite."""


class FrameFeatures(VisionFeatures):
    """Features of a window, frame by frame: a prefill copies them to where it reads, and needs no whole."""

    def __init__(self, frames: Sequence[torch.Tensor]):
        """Of (1 + taps, tokens, out) of each frame."""
        self._frames = frames

    @cached_property
    def _whole(self) -> torch.Tensor:
        # One launch, where the features of a window are 90 MB in 64 pieces.
        return torch.cat(list(self._frames), 1)

    @property
    def embeds(self) -> torch.Tensor:
        """See `VisionFeatures`."""
        return self._whole[0]

    @property
    def deepstack(self) -> tuple[torch.Tensor, ...]:
        """See `VisionFeatures`."""
        return tuple(self._whole[1:])

    def copy_to(self, target: torch.Tensor) -> None:
        """See `VisionFeatures`."""
        for tap, part in enumerate(target):
            torch.cat([frame[tap] for frame in self._frames], out=part)


class FrameCache:
    """Features by the caller's frame id and the frame's size; the least recently used go first.

    Attributes:
        most: how many frames are kept; one of 320×576 takes 5.6 MiB at the released sizes.
    """

    def __init__(self, most: int = 64):
        self.most = most
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()  # (1 + taps, tokens, out)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget all frames."""
        self._kept.clear()

    def encode(
        self, images: Images, pixels: torch.Tensor, ids: Sequence[Hashable], encode: EncodeFrames
    ) -> FrameFeatures:
        """Features of all images in their order; only frames that are not kept are encoded.

        Args:
            images: gives the grid.
            pixels: (patches, values) of all images.
            ids: one for each image. The same id means the same picture, always.
            encode: called once a size.
        """
        grid = [(rows, columns) for _, rows, columns in images.grid.tolist()]
        keys = list(zip(ids, grid, strict=True))
        patches = pixels.split([rows * columns for rows, columns in grid])
        # Size → frame → patches, all in the order in which they are met.
        new: dict[tuple[int, int], dict[Hashable, torch.Tensor]] = {}
        for key, size, part in zip(keys, grid, patches, strict=True):
            if key not in self._kept:
                new.setdefault(size, {})[key] = part
        found: dict[Hashable, torch.Tensor] = {}
        for size, frames in new.items():
            made = encode(list(frames.values()), *size)
            parts = zip(*(part.chunk(len(frames)) for part in (made.embeds, *made.deepstack)), strict=True)
            # Copies: a part of what was encoded together would keep all of it in memory.
            found.update(zip(frames, map(torch.stack, parts), strict=True))
        window = [found[key] if key in found else self._kept[key] for key in keys]
        for key, features in zip(keys, window, strict=True):
            self._kept[key] = features
            self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return FrameFeatures(window)

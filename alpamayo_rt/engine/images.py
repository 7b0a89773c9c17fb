# SPDX-License-Identifier: Apache-2.0
"""Images of several sizes through an encoder that takes images of one size."""

from __future__ import annotations

from collections.abc import Callable

import torch

from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images

Encode = Callable[[torch.Tensor, int, int], VisionFeatures]
"""(patches (I, n, values), patch rows, patch columns) → features of the I images."""


def encode_by_size(images: Images, pixels: torch.Tensor, encode: Encode) -> VisionFeatures:
    """Features of all images in their order; those of one size run together.

    Args:
        images: gives the grid.
        pixels: (patches, values), where and in the type that `encode` wants them.
        encode: called once a size.
    """
    grid = [(h, w) for _, h, w in images.grid.tolist()]
    if len(set(grid)) == 1:
        return encode(pixels.view(len(grid), -1, pixels.shape[1]), *grid[0])
    patches = pixels.split([h * w for h, w in grid])
    parts: list[tuple[torch.Tensor, ...]] = [()] * len(grid)
    for height, width in sorted(set(grid)):
        members = [i for i, size in enumerate(grid) if size == (height, width)]
        features = encode(torch.stack([patches[i] for i in members]), height, width)
        split = [f.chunk(len(members)) for f in (features.embeds, *features.deepstack)]
        for n, i in enumerate(members):
            parts[i] = tuple(f[n] for f in split)
    embeds, *deepstack = (torch.cat(f) for f in zip(*parts, strict=True))
    return VisionFeatures(embeds, tuple(deepstack))

# SPDX-License-Identifier: Apache-2.0
"""Camera frames → patches, on any device.

The resize repeats, in integers, what torch's antialiased bicubic does with uint8 images on the CPU, which is
what the released processor calls; so that a frame gives the same bytes on every device. Families that resize
in float have the same operator on float images everywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from alpamayo_rt.errors import InputError

_CUBIC_A = -0.5
_MAX_PRECISION = 22
MAX_ASPECT_RATIO = 200


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, multiple: int = 32
) -> tuple[int, int]:
    """The size to which an image is resized: near its own, both sides multiples, area within limits.

    Raises:
        InputError: the image is thinner than the model's image processor accepts.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise InputError(
            f"frames: image of {height}×{width}, expected an aspect ratio below {MAX_ASPECT_RATIO}"
        )
    rows = round(height / multiple) * multiple
    columns = round(width / multiple) * multiple
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(multiple, math.floor(height / shrink / multiple) * multiple)
        columns = max(multiple, math.floor(width / shrink / multiple) * multiple)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / multiple) * multiple
        columns = math.ceil(width * grow / multiple) * multiple
    return rows, columns


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * _CUBIC_A
    return 0.0


@lru_cache(maxsize=64)
def _taps(size_in: int, size_out: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """First source index (out,), fixed-point weights (out, taps) and their number of fractional bits."""
    scale = size_in / size_out
    support = 2 * max(scale, 1.0)
    stretch = 1 / max(scale, 1.0)
    firsts, rows = [], []
    for i in range(size_out):
        center = scale * (i + 0.5)
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), size_in)
        weights = [_cubic((j - center + 0.5) * stretch) for j in range(first, last)]
        total = sum(weights)
        firsts.append(first)
        rows.append([w / total for w in weights])
    largest = max(max(row) for row in rows)
    precision = 0
    while precision < _MAX_PRECISION and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    width = max(len(row) for row in rows)
    fixed = torch.zeros(size_out, width, dtype=torch.int32)
    for i, row in enumerate(rows):
        # Rounds half away from zero, as the C code does.
        fixed[i, : len(row)] = torch.tensor(
            [int(w * (1 << precision) + (0.5 if w >= 0 else -0.5)) for w in row], dtype=torch.int32
        )
    return torch.tensor(firsts), fixed, precision


@lru_cache(maxsize=64)
def _taps_on(device: torch.device, size_in: int, size_out: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """`_taps` on a device, kept there: to copy them anew would wait for all that was launched before."""
    first, weights, precision = _taps(size_in, size_out)
    return first.to(device), weights.to(device), precision


def _resize_last(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize the last dimension of uint8 (…, W) to `size`, rounding and clamping to uint8."""
    if images.shape[-1] == size:
        return images
    first, weights, precision = _taps_on(images.device, images.shape[-1], size)
    total = torch.full(
        (*images.shape[:-1], size), 1 << (precision - 1), dtype=torch.int32, device=images.device
    )
    for tap in range(weights.shape[1]):
        # Rows shorter than the widest one have zero weights there; any index inside the image will do.
        index = (first + tap).clamp(max=images.shape[-1] - 1)
        total += images[..., index].int() * weights[:, tap]
    return (total >> precision).clamp(0, 255).to(torch.uint8)


def resize(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Antialiased bicubic resize of uint8 images (N, C, H, W): horizontal pass, then vertical."""
    if images.device.type == "cpu":
        return torch.nn.functional.interpolate(
            images, size=(height, width), mode="bicubic", antialias=True, align_corners=False
        )
    return resize_integer(images, height, width)


def resize_integer(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The same resize in integer arithmetic that every device has; bit-equal to `resize` on the CPU."""
    wide = _resize_last(images, width)
    return _resize_last(wide.transpose(-1, -2), height).transpose(-1, -2).contiguous()


def patchify(images: torch.Tensor, patch: int = 16, merge: int = 2, temporal: int = 2) -> torch.Tensor:
    """Cut normalized images into patch vectors in merge-block order.

    Args:
        images: (N, C, H, W) float; H and W multiples of patch · merge.
        patch: side of a patch.
        merge: side of a merge block in patches.
        temporal: how often a still image is repeated in time.

    Returns:
        (N, patches, C · temporal · patch²).
    """
    n, channels, height, width = images.shape
    blocks = images.reshape(
        n, channels, height // patch // merge, merge, patch, width // patch // merge, merge, patch
    )
    # → image, block row, block column, row in block, column in block, channel, patch row, patch column
    blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(1, 4)
    return blocks.unsqueeze(3).expand(-1, -1, -1, temporal, -1, -1).flatten(2)


def _normalized(frames: torch.Tensor, height: int, width: int, in_float: bool) -> torch.Tensor:
    """uint8 (N, C, H, W) → float32 (N, C, height, width) around −1…1."""
    if not in_float:
        return (resize(frames, height, width).float() - 127.5) / 127.5
    # Image by image: as floats all of them at once would take four times their room.
    wide = [
        torch.nn.functional.interpolate(
            frame[None].float() / 255, size=(height, width), mode="bicubic", antialias=True, align_corners=False
        )
        for frame in frames
    ]
    return (torch.cat(wide) - 0.5) / 0.5


def preprocess(
    frames: torch.Tensor,
    min_pixels: int,
    max_pixels: int,
    in_float: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames → what the vision tower reads.

    Args:
        frames: (N, 3, H, W) uint8.
        min_pixels: smallest area after resizing.
        max_pixels: largest area after resizing.
        in_float: resize without rounding and clamping, so that values may lie beyond ±1.
        dtype: of the patches; what comes before is float32.

    Returns:
        `pixel_values` (patches of all images, 1536) and `image_grid_thw` (N, 3) int64 on the CPU.
    """
    height, width = smart_resize(frames.shape[-2], frames.shape[-1], min_pixels, max_pixels)
    patches = patchify(_normalized(frames, height, width, in_float).to(dtype))
    grid = torch.tensor([[1, height // 16, width // 16]]).expand(len(frames), -1)
    return patches.flatten(0, 1), grid.contiguous()

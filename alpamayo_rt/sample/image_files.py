# SPDX-License-Identifier: Apache-2.0
"""Image files → frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from alpamayo_rt.errors import InputError

MAX_PIXELS = 64_000_000
"""Larger than any camera's image; a file that claims more is refused before it is decoded."""


def read_image(path: Path) -> torch.Tensor:
    """Decode one image file to (3, H, W) uint8 RGB.

    Raises:
        InputError: the file is missing, damaged, too large or no image.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}×{image.height} pixels, expected at most {MAX_PIXELS}")
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{path}: pixels of mode {image.mode}, expected 8 bits a channel")
            array = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing, expected an image file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected an image file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image, expected PNG or JPEG") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be decoded ({error})") from None
    return torch.from_numpy(array).permute(2, 0, 1)


def read_frames(paths: Sequence[Path], cameras: int) -> torch.Tensor:
    """Decode images, camera-major and oldest first, to frames (cameras, T, 3, H, W) uint8.

    Raises:
        InputError: they cannot be divided over the cameras, or differ in size.
    """
    if not paths or len(paths) % cameras:
        raise InputError(f"messages: {len(paths)} image(s) cannot be divided over {cameras} cameras")
    images = [read_image(path) for path in paths]
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise InputError(f"messages: images of sizes {sorted(sizes)}, expected one size (height, width)")
    return torch.stack(images).unflatten(0, (cameras, -1))

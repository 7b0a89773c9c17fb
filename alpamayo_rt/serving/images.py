# SPDX-License-Identifier: Apache-2.0
"""Base64 texts → frames, in parallel threads and within limits; nothing is ever fetched or opened."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import numpy as np
import pybase64
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError

from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.refusal import Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_JPEG = b"\xff\xd8\xff"
_PLAIN = ("Gray", "YCbCr", "RGB")  # colour spaces of JPEG that need no judgement


class Encoded(NamedTuple):
    """A compressed image: its name for errors, its bytes and its size; `plain` if it is a JPEG like most."""

    field: str
    data: bytes
    height: int
    width: int
    plain: bool


def from_text(field: str, text: str | memoryview, limits: Limits) -> Encoded:
    """Take a base64 text, with or without `data:image/…;base64,` before it, and read its header.

    Raises:
        Refusal: not base64, no image, or too large.
    """
    head = text[:64] if isinstance(text, str) else bytes(text[:64]).decode("latin-1")
    payload = text
    if head[:5].lower() == "data:":
        kind, comma, _ = head.partition(",")
        if not comma or not kind.lower().startswith("data:image/") or not kind.lower().endswith(";base64"):
            raise Refusal(422, f"{field}: {kind[:40]!r}, expected data:image/…;base64, and the image's bytes")
        payload = text[len(kind) + 1 :]
    elif "://" in head:
        raise Refusal(422, f"{field}: an address, expected the image itself as base64 or data URI")
    try:
        data = pybase64.b64decode(payload, validate=True)
    except (ValueError, TypeError):
        raise Refusal(422, f"{field}: not base64, expected an image as base64 or data URI") from None
    height, width, plain = _header(field, data)
    if height * width > limits.image_pixels:
        raise Refusal(422, f"{field}: {width}×{height} pixels, expected at most {limits.image_pixels} in all")
    return Encoded(field, data, height, width, plain)


def check_together(images: Sequence[Encoded], limits: Limits) -> None:
    """Refuse images that cannot be one sample, or are too large together.

    Raises:
        Refusal: names the image.
    """
    first = images[0]
    for image in images:
        if (image.height, image.width) != (first.height, first.width):
            raise Refusal(
                422,
                f"{image.field}: {image.width}×{image.height} pixels, expected {first.width}×{first.height} "
                f"as {first.field}",
            )
    if len(images) * first.height * first.width > limits.all_pixels:
        raise Refusal(
            422,
            f"images: {len(images)} of {first.width}×{first.height} pixels, "
            f"expected at most {limits.all_pixels} pixels in all",
        )


def decode_all(
    images: Sequence[Encoded], cameras: int, pool: Executor, device: torch.device | None = None
) -> torch.Tensor:
    """Frames (cameras, T, 3, H, W) uint8 on the host, in pinned memory where they go to a GPU.

    Raises:
        Refusal: an image is damaged; the sentence names it.
    """
    first = images[0]
    pinned = device is not None and device.type == "cuda"
    # Pixels lie as decoders write them, so that nothing is copied; the permuted view has the model's order.
    frames = torch.empty((len(images), first.height, first.width, 3), dtype=torch.uint8, pin_memory=pinned)
    list(pool.map(_decode_into, images, frames.numpy()))
    return frames.permute(0, 3, 1, 2).unflatten(0, (cameras, -1))


def _decode_into(image: Encoded, frame: np.ndarray) -> None:
    """Decode to (H, W, 3) uint8."""
    if image.plain:
        try:
            simplejpeg.decode_jpeg(image.data, "RGB", buffer=frame)
            return
        except ValueError:
            pass  # let Pillow judge: it is what reads image files elsewhere
    try:
        with Image.open(io.BytesIO(image.data), formats=FORMATS) as opened:
            frame[:] = np.asarray(opened.convert("RGB"))
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise Refusal(422, f"{image.field}: cannot be decoded ({error})") from None


def _header(field: str, data: bytes) -> tuple[int, int, bool]:
    """(height, width, whether it is a JPEG that needs no judgement), without decoding it."""
    if data[:3] == _JPEG:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours in _PLAIN:
                return height, width, True
        except ValueError:
            pass
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.mode.startswith(("I", "F")):
                raise Refusal(422, f"{field}: pixels of mode {opened.mode}, expected 8 bits a channel")
            return opened.height, opened.width, False
    except UnidentifiedImageError:
        raise Refusal(422, f"{field}: not an image, expected {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, OverflowError) as error:
        raise Refusal(422, f"{field}: cannot be read ({error})") from None

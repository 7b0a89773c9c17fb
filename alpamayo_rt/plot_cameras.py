# SPDX-License-Identifier: Apache-2.0
"""The newest picture of every camera, and where it belongs on the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from alpamayo_rt.answers import Box
from alpamayo_rt.families import CAMERA_NAMES
from alpamayo_rt.plot_text import clip, font, line_height
from alpamayo_rt.sample.sample import PreparedImages, Sample

# From left to right as the driver sees it; the telephoto camera (6) looks ahead, as the front camera does.
_AHEAD = (0, 1, 6, 2)
_BEHIND = (3, 4, 5)
_GAP = 10
_LABEL_SIZE = 16
_LABEL = line_height(_LABEL_SIZE)
_FOUND = "#cf222e"


def newest_pictures(sample: Sample) -> list[Image.Image]:
    """The newest frame of each camera in the order of `camera_indices`, RGB.

    Prepared images are put together again from their patches, at the size the model sees.
    """
    if sample.frames is not None:
        newest = sample.frames[:, -1].permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(np.ascontiguousarray(picture)) for picture in newest]
    assert sample.prepared is not None
    per_camera = sample.frames_per_camera
    return [
        _from_patches(sample.prepared, camera * per_camera + per_camera - 1)
        for camera in range(len(sample.camera_indices))
    ]


def _from_patches(prepared: PreparedImages, index: int) -> Image.Image:
    sizes = prepared.image_grid_thw.cpu().prod(1).tolist()
    rows, columns = (int(n) for n in prepared.image_grid_thw[index, 1:])
    start = int(sum(sizes[:index]))
    patches = prepared.pixel_values[start : start + rows * columns].detach().float().cpu().numpy()
    # Merge blocks of 2×2 in row-major order; a patch is (channel, time, row, column), both times the same.
    blocks = patches.reshape(rows // 2, columns // 2, 2, 2, 3, 2, 16, 16)[:, :, :, :, :, 0]
    pixels = blocks.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * 16, columns * 16, 3)
    return Image.fromarray(np.clip(np.rint(pixels * 127.5 + 127.5), 0, 255).astype(np.uint8))


def camera_rows(cameras: Sequence[int]) -> list[list[int]]:
    """Camera numbers row by row as they should lie on the page.

    Few cameras stand side by side; more have those that look ahead above those that look back, left ones
    left. The model's four usual cameras make two rows of two, so that each is large.
    """
    ahead = [c for c in _AHEAD if c in cameras]
    behind = [c for c in _BEHIND if c in cameras]
    if len(cameras) <= 3:
        return [ahead + behind]
    if not behind:
        return [[1, 6], [0, 2]]
    if len(ahead) == 4 and len(behind) == 2:
        # Three above three, the telephoto camera between the two that look back.
        return [[0, 1, 2], [behind[0], 6, behind[1]]]
    return [row for row in (ahead, behind) if row]


def draw_cameras(
    canvas: Image.Image,
    sample: Sample,
    left: int,
    top: int,
    width: int,
    height: int,
    boxes: Sequence[Box] = (),
) -> int:
    """Draw all cameras with their names into the given box (pixels), and what was found in their images.

    Returns:
        The height that was used; at most `height`.
    """
    pictures = dict(zip(sample.camera_indices, newest_pictures(sample), strict=True))
    shape_of = {c: picture.width / picture.height for c, picture in pictures.items()}
    rows = camera_rows(sample.camera_indices)
    flat = [[c for c in (*_AHEAD, *_BEHIND) if c in pictures]]
    # Upright pictures are larger side by side.
    if min(_row_heights(rows, shape_of, width, height)) < _row_heights(flat, shape_of, width, height)[0]:
        rows = flat
    y = top
    for row, high in zip(rows, _row_heights(rows, shape_of, width, height), strict=True):
        shapes = [shape_of[c] for c in row]
        # Very narrow pictures still get room for their names; very wide ones stay within their share.
        share = (width - _GAP * (len(row) - 1)) // len(row)
        sizes = [(max(1, int(shape * high)), high) for shape in shapes]
        cells = [max(size[0], min(share, 150)) for size in sizes]
        x = left
        for camera, size, cell in zip(row, sizes, cells, strict=True):
            found = [box for box in boxes if box.camera == camera]
            _draw_camera(canvas, pictures[camera], CAMERA_NAMES[camera], x, y, size, cell, found)
            x += cell + _GAP
        y += _LABEL + high + _GAP
    return y - _GAP - top


def _draw_box(picture: Image.Image, box: Box, scale: float) -> None:
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = (scale * value for value in box.box)
    pen.rectangle((left, top, right, bottom), outline=_FOUND, width=2)
    if box.label:
        high = line_height(_LABEL_SIZE)
        text, letters = clip(box.label, _LABEL_SIZE, max(1.0, picture.width - left)), font(_LABEL_SIZE)
        # Above the box, or inside it where there is no room above.
        at = (left, top - high if top >= high else top + 2)
        pen.rectangle(pen.textbbox(at, text, letters), fill=_FOUND)
        pen.text(at, text, "#ffffff", letters)


def _row_heights(rows: list[list[int]], shape_of: dict[int, float], width: int, height: int) -> list[int]:
    # One height for all of a row, such that it fills the width, unless it would be too tall for that.
    tall = (height - _GAP * (len(rows) - 1)) // len(rows) - _LABEL
    return [
        max(1, min(tall, int((width - _GAP * (len(row) - 1)) / sum(shape_of[c] for c in row)))) for row in rows
    ]


def _draw_camera(
    canvas: Image.Image,
    picture: Image.Image,
    name: str,
    x: int,
    y: int,
    size: tuple[int, int],
    cell: int,
    found: Sequence[Box],
) -> None:
    ImageDraw.Draw(canvas).text((x, y), clip(name, _LABEL_SIZE, cell), "#57606a", font(_LABEL_SIZE))
    smaller = size[0] < picture.width
    how = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
    shown = picture.resize(size, how)
    for box in found:
        _draw_box(shown, box, size[0] / picture.width)
    canvas.paste(shown, (x, y + _LABEL))

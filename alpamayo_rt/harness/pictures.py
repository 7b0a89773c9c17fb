# SPDX-License-Identifier: Apache-2.0
"""A small picture of what the cameras saw, for the report."""

from __future__ import annotations

import io

from PIL import Image

from alpamayo_rt.plot_cameras import camera_rows, newest_pictures
from alpamayo_rt.sample.sample import Sample

_HEIGHT, _GAP, _QUALITY = 126, 4, 80


def thumbnail(sample: Sample) -> bytes:
    """The newest frame of every camera, row by row as they lie around the vehicle, as one JPEG."""
    pictures = dict(zip(sample.camera_indices, newest_pictures(sample), strict=True))
    rows = [[_small(pictures[camera]) for camera in row] for row in camera_rows(sample.camera_indices)]
    width = max(sum(p.width for p in row) + _GAP * (len(row) - 1) for row in rows)
    page = Image.new("RGB", (width, len(rows) * (_HEIGHT + _GAP) - _GAP), "#ffffff")
    for y, line in enumerate(rows):
        x = 0
        for picture in line:
            page.paste(picture, (x, y * (_HEIGHT + _GAP)))
            x += picture.width + _GAP
    data = io.BytesIO()
    page.save(data, format="JPEG", quality=_QUALITY)
    return data.getvalue()


def _small(picture: Image.Image) -> Image.Image:
    width = max(1, round(picture.width * _HEIGHT / picture.height))
    return picture.resize((width, _HEIGHT), Image.Resampling.LANCZOS)

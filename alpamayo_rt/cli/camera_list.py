# SPDX-License-Identifier: Apache-2.0
"""`--cameras 0,1,2,6`."""

from __future__ import annotations

from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.cameras import camera_features


def parse_cameras(text: str) -> tuple[int, ...]:
    """Camera numbers in the order given.

    Raises:
        InputError: no numbers, or no cameras.
    """
    try:
        cameras = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"--cameras: {text!r}, expected numbers such as 0,1,2,6") from None
    camera_features(cameras)
    return cameras

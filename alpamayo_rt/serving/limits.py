# SPDX-License-Identifier: Apache-2.0
"""How much one request, and all of them together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; what is beyond one of them is refused in one sentence.

    Attributes:
        body_bytes: of one request.
        all_bodies_bytes: of all requests that are being read or wait to be decoded.
        body_seconds: from a request's headers to its last byte.
        header_seconds: from a connection's first moment, or its last answer, to the next request's headers.
        connections: open at the same time.
        images: of one request.
        image_pixels: of one image.
        all_pixels: of all images of one request.
        text_characters: of navigation, question and messages.
        candidates, steps, tokens: the largest values of these settings.
        waiting: requests that wait while one runs.
        decoded: requests whose images are decoded while they wait for the engine, or are in it.
        deadline_seconds: from a request's last byte to its answer.
    """

    body_bytes: int = 128 * MIB
    all_bodies_bytes: int = 512 * MIB
    body_seconds: float = 30.0
    header_seconds: float = 15.0
    connections: int = 512
    images: int = 64
    image_pixels: int = 16_000_000
    all_pixels: int = 150_000_000
    text_characters: int = 2_000
    candidates: int = 64
    steps: int = 100
    tokens: int = 2_048
    waiting: int = 16
    decoded: int = 3
    deadline_seconds: float = 60.0

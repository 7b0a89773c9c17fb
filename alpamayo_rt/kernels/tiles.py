# SPDX-License-Identifier: Apache-2.0
"""Tiles are powers of two long; rows of other lengths are covered with two of them."""

from __future__ import annotations


def two_parts(size: int, least: int = 1) -> tuple[int, int]:
    """Two tiles, of powers of two and at least so long, that cover a row together: 72 → (64, 8).

    The second is 0 where it would save nothing.
    """
    whole = max(least, 1 << (size - 1).bit_length())
    main = 1 << (size.bit_length() - 1)
    rest = max(least, 1 << (size - main - 1).bit_length()) if size > main else 0
    return (main, rest) if main >= least and main + rest < whole else (whole, 0)

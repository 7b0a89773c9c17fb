# SPDX-License-Identifier: Apache-2.0
"""Text on pictures: a font that is always there, wrapping, and what to do with what it cannot draw."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import islice

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

ELLIPSIS = "…"
# Pillow's own font knows little more than ASCII; these read better than a question mark.
_SPELLED = {
    "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "‒": "-", "•": "·", "→": "->", "←": "<-", "↑": "^",
    "×": "x", "≤": "<=", "≥": ">=", "≈": "~", "²": "2", "³": "3", "ß": "ss", "æ": "ae", "Æ": "Ae", "ø": "o",
    "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "‘": "'", "’": "'", "“": '"', "”": '"',
    "…": "...", "·": "-", "°": " deg", "±": "+/-",
}  # fmt: skip


@cache
def font(size: int) -> Font:
    """Pillow's bundled font at `size` pixels: the same on every machine."""
    return ImageFont.load_default(size)


def line_height(size: int) -> int:
    """Pixels from line to line."""
    return round(size * 1.34)


def width_of(text: str, size: int) -> float:
    """Pixels that one line takes."""
    return font(size).getlength(text)


@lru_cache(maxsize=4096)
def _has_glyph(char: str) -> bool:
    # What the font lacks comes out as one and the same box; a private character is surely lacking.
    def shape(text: str) -> tuple[tuple[int, int], bytes]:
        mask = font(24).getmask(text)
        return mask.size, bytes(mask)

    return shape(char) != shape("\U0010fffd")


def drawable(text: str) -> str:
    """`text` in characters that the font has: accents are dropped, signs spelled, the rest is `?`."""
    return "".join(_drawable(char) for char in text)


@lru_cache(maxsize=4096)
def _drawable(char: str) -> str:
    if char.isspace():
        return "\n" if char in "\n\r\u2028\u2029" else " "
    if unicodedata.category(char) in ("Cc", "Cf", "Mn"):
        return ""
    if _has_glyph(char):
        return char
    if char in _SPELLED:
        return _SPELLED[char]
    # ASCII is always there, so what remains of a decomposed letter can be drawn.
    plain = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return plain.strip() or "?"


def wrap(text: str, size: int, width: float) -> Iterator[str]:
    """Lines of `text` that are at most `width` pixels wide; words that are longer are cut."""
    for paragraph in drawable(text).splitlines():
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if _fits(joined, size, width):
                line = joined
                continue
            if line:
                yield line
            while len(word) > 1 and not _fits(word, size, width):
                head = _longest_head(word, size, width)
                yield word[:head]
                word = word[head:]
            line = word
        if line:
            yield line


@cache
def _advance(char: str, size: int) -> float:
    return width_of(char, size)


def _longest_head(word: str, size: int, width: float) -> int:
    # Single characters are measured once; what kerning adds is taken back below.
    head, used = 0, 0.0
    while head < len(word) and used + _advance(word[head], size) <= width:
        used += _advance(word[head], size)
        head += 1
    while head > 1 and width_of(word[:head], size) > width:
        head -= 1
    return max(1, head)


def _fits(text: str, size: int, width: float) -> bool:
    # No character is narrower than a pixel; measuring very long texts would take long.
    return len(text) <= width and width_of(text, size) <= width


def clip(text: str, size: int, width: float) -> str:
    """One line of at most `width` pixels, with an ellipsis if something is missing."""
    found = list(islice(wrap(text, size, width), 2))
    return found[0] if len(found) == 1 else _with_ellipsis(found[0], size, width) if found else ""


def _with_ellipsis(line: str, size: int, width: float) -> str:
    # A loop of its own: the last line may be full, so that the ellipsis takes the place of its end.
    mark = ELLIPSIS if _has_glyph(ELLIPSIS) else "..."
    while line and width_of(line + mark, size) > width:
        line = line[:-1]
    return line.rstrip(" ,;.") + mark


def lines_of(text: str, size: int, width: float, limit: int) -> list[str]:
    """The first `limit` lines; the last one ends in an ellipsis if there are more."""
    # Far more than the lines hold, since no character is narrower than a pixel: very long texts take no
    # longer than long ones.
    seen = text[: 2 * (limit + 1) * (max(1, int(width)) + 1)]
    lines = list(islice(wrap(seen, size, width), limit + 1))
    if len(lines) > limit:
        lines = lines[:limit]
        if lines:
            lines[-1] = _with_ellipsis(lines[-1], size, width)
    return lines


def fit_paragraphs(
    texts: Sequence[str], width: float, height: float, sizes: Sequence[int], gap: int = 0
) -> tuple[int, list[list[str]]]:
    """Set several texts below each other into a box, as large as they fit.

    Args:
        texts: the texts, one below the other.
        width: of the box, pixels.
        height: of the box, pixels.
        sizes: font sizes to try, largest first; at the last one texts are shortened where they have to be,
            the longest ones first.
        gap: pixels between texts.

    Returns:
        The size taken, and each text's lines; an empty list where there is no room for a text at all.
    """
    size, room = sizes[-1], 0
    for size in sizes:
        room = max(0, int((height - gap * (len(texts) - 1)) // line_height(size)))
        lines = []
        for text in texts:
            lines.append(lines_of(text, size, width, room + 1))
            if size != sizes[-1] and sum(map(len, lines)) > room:
                break
        else:
            if sum(map(len, lines)) <= room:
                return size, lines
    limit = 0
    while sum(min(len(found), limit + 1) for found in lines) <= room:
        limit += 1
    if limit == 0:
        return size, [found[:1] if i < room else [] for i, found in enumerate(lines)]
    # What does not come out even goes to the first texts.
    spare = room - sum(min(len(found), limit) for found in lines)
    limits = []
    for found in lines:
        more = len(found) > limit and spare > 0
        spare -= more
        limits.append(limit + more)
    return size, [lines_of(text, size, width, each) for text, each in zip(texts, limits, strict=True)]

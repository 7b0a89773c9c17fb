# SPDX-License-Identifier: Apache-2.0
"""The scene from above: where the vehicle was, where it may go, where it went. Forward is up, left is left."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from alpamayo_rt.plot_text import font, width_of

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7f6000", "#332288")
"""Candidate colours, told apart with the usual colour blindnesses too; more candidates start over."""

HISTORY_COLOUR = "#8c959f"
TRUTH_COLOUR = "#000000"
TEXT_COLOUR = "#1f2328"
MUTED_COLOUR = "#57606a"

_SMOOTH = 3  # Pillow draws without antialiasing: the lines are drawn this much larger, then averaged.
_LABEL_SIZE = 15
_LEFT, _BOTTOM = 64, 46  # room for the grid's numbers and titles
_VEHICLE = (-1.4, 3.5, 2.1)  # rear end, front end and width of a car whose origin is near its rear axle, m
_LEAST = ((-6.0, 14.0), (-5.0, 5.0))  # ahead and left, metres that are always shown
_LEGEND_ROW = 26


def colour_of(candidate: int) -> str:
    """The colour of a candidate, counted from 0."""
    return PALETTE[candidate % len(PALETTE)]


def draw_scene(
    canvas: Image.Image,
    box: tuple[int, int, int, int],
    candidates: np.ndarray,
    history: np.ndarray | None = None,
    future: np.ndarray | None = None,
) -> None:
    """Draw the scene into a part of the picture.

    Args:
        canvas: the picture.
        box: left, top, right, bottom in pixels.
        candidates: (K, W, ≥2) metres, x forward, y left; what is not finite is left out.
        history: (H, ≥2), or None.
        future: (F, ≥2) where the vehicle really went, or None.
    """
    paths = [_from_here(path) for path in candidates]
    past = None if history is None else _finite(history)
    truth = None if future is None else _from_here(future)
    left, top, right, bottom = box
    top += _draw_legend(canvas, box, len(paths), past is not None, truth is not None) + 6
    view = _View(
        [path for path in (*paths, past, truth) if path is not None],
        right - left - _LEFT,
        bottom - top - _BOTTOM,
    )
    lines = Image.new("RGB", (view.width * _SMOOTH, view.height * _SMOOTH), "#ffffff")
    pen = _Pen(ImageDraw.Draw(lines), view)
    _draw_grid(pen, view)
    _draw_vehicle(pen, view)
    if past is not None:
        pen.path(past, HISTORY_COLOUR, 4)
    # Earlier candidates are a little wider: they stay visible where a later one takes the same way.
    for k, path in enumerate(paths):
        pen.path(path, colour_of(k), _taper(k, len(paths), 5, 3))
        for point in path[10::10]:
            pen.dot(point, colour_of(k), _taper(k, len(paths), 4.4, 3.4))
    for k, path in enumerate(paths):
        pen.dot(path[-1], colour_of(k), _taper(k, len(paths), 9, 4.8))
    if truth is not None:
        pen.path(truth, TRUTH_COLOUR, 2.4, dash=(9, 6))
        pen.dot(truth[-1], TRUTH_COLOUR, 3)
    area = (left + _LEFT, top)
    canvas.paste(lines.reduce(_SMOOTH), area)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((area[0] - 1, area[1] - 1, area[0] + view.width, area[1] + view.height), outline="#d0d7de")
    _draw_numbers(draw, view, area)
    title = Image.new("RGB", (view.height, 20), "#ffffff")
    ImageDraw.Draw(title).text(
        (view.height / 2, 0), "metres ahead", MUTED_COLOUR, font(_LABEL_SIZE), anchor="ma"
    )
    canvas.paste(title.transpose(Image.Transpose.ROTATE_90), (left, top))


def _taper(k: int, count: int, first: float, last: float) -> float:
    return first - (first - last) * k / max(1, count - 1) if count > 1 else (first + last) / 2


def _finite(path: np.ndarray) -> np.ndarray:
    flat = np.asarray(path, dtype=np.float64)[:, :2]
    return flat[np.isfinite(flat).all(1)]


def _from_here(path: np.ndarray) -> np.ndarray:
    # Poses start one step after t0; at t0 the vehicle is at the origin by definition.
    return np.concatenate([np.zeros((1, 2)), _finite(path)])


class _View:
    """Metres ↔ pixels: one scale for both axes, everything visible, the rest of the area filled."""

    def __init__(self, paths: list[np.ndarray], width: int, height: int):
        self.width, self.height = max(1, width), max(1, height)
        points = np.concatenate([*paths, np.array(_LEAST).T])
        low, high = points.min(0), points.max(0)
        middle, extent = (low + high) / 2, (high - low) * 1.08
        self.scale = float(min(self.height / extent[0], self.width / extent[1]))
        self.ahead = float(middle[0] + self.height / self.scale / 2)  # x at the upper edge
        self.left = float(middle[1] + self.width / self.scale / 2)  # y at the left edge
        step = 10.0 ** math.floor(math.log10(56 / self.scale))
        self.step = next(step * n for n in (1, 2, 5, 10) if step * n * self.scale >= 56)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Place of a point in metres, from the area's upper left."""
        return (self.left - y) * self.scale, (self.ahead - x) * self.scale

    def rows(self) -> list[float]:
        """Metres ahead of the horizontal grid lines."""
        return self._multiples(self.ahead - self.height / self.scale, self.ahead)

    def columns(self) -> list[float]:
        """Metres to the left of the vertical grid lines."""
        return self._multiples(self.left - self.width / self.scale, self.left)

    def _multiples(self, low: float, high: float) -> list[float]:
        return [n * self.step for n in range(math.ceil(low / self.step), math.floor(high / self.step) + 1)]


class _Pen:
    """Draws in metres on the enlarged picture; widths and radii are in pixels of the final one."""

    def __init__(self, draw: ImageDraw.ImageDraw, view: _View):
        self.draw, self._view = draw, view

    def place(self, point: np.ndarray) -> tuple[float, float]:
        """Pixel on the enlarged picture."""
        x, y = self._view.pixel(float(point[0]), float(point[1]))
        return x * _SMOOTH, y * _SMOOTH

    def dot(self, point: np.ndarray, colour: str, radius: float) -> None:
        """A filled circle."""
        self._disc(self.place(point), radius * _SMOOTH, colour)

    def path(
        self, points: np.ndarray, colour: str, width: float, dash: tuple[float, float] | None = None
    ) -> None:
        """A line through points with round ends; `dash` is drawn and empty length in pixels."""
        places = [self.place(point) for point in points]
        pieces = [places] if dash is None else _dashes(places, dash[0] * _SMOOTH, dash[1] * _SMOOTH)
        for piece in pieces:
            if len(piece) > 1:
                self.draw.line(piece, fill=colour, width=round(width * _SMOOTH), joint="curve")
            for end in (piece[0], piece[-1]) if piece and dash is None else ():
                self._disc(end, width * _SMOOTH / 2, colour)

    def _disc(self, centre: tuple[float, float], radius: float, colour: str) -> None:
        (x, y), r = centre, radius
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _dashes(places: list[tuple[float, float]], drawn: float, empty: float) -> list[list[tuple[float, float]]]:
    if not places:
        return []
    pieces, piece, rest, on = [], [places[0]], drawn, True
    for (x0, y0), (x1, y1) in pairwise(places):
        length = math.hypot(x1 - x0, y1 - y0)
        done = 0.0
        while length - done > rest:
            done += rest
            turn = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if on:
                pieces.append([*piece, turn])
            piece, on = [turn], not on
            rest = drawn if on else empty
        rest -= length - done
        if on:
            piece.append((x1, y1))
    return [*pieces, piece] if on else pieces


def _draw_grid(pen: _Pen, view: _View) -> None:
    for x in view.rows():
        y = round(view.pixel(x, 0)[1]) * _SMOOTH
        pen.draw.rectangle(
            (0, y, view.width * _SMOOTH, y + _SMOOTH - 1), fill="#c4ccd4" if x == 0 else "#e8ecf0"
        )
    for y_left in view.columns():
        x = round(view.pixel(0, y_left)[0]) * _SMOOTH
        colour = "#c4ccd4" if y_left == 0 else "#e8ecf0"
        pen.draw.rectangle((x, 0, x + _SMOOTH - 1, view.height * _SMOOTH), fill=colour)


def _draw_vehicle(pen: _Pen, view: _View) -> None:
    # Far scenes would shrink it to nothing; then it is a mark rather than to scale.
    grow = max(1.0, 22 / (4.9 * view.scale))
    rear, front, half = _VEHICLE[0] * grow, _VEHICLE[1] * grow, _VEHICLE[2] * grow / 2
    x0, y0 = pen.place(np.array([front, half]))
    x1, y1 = pen.place(np.array([rear, -half]))
    pen.draw.rounded_rectangle(
        (x0, y0, x1, y1), radius=(x1 - x0) * 0.25, fill="#dfe5eb", outline="#424a53", width=2 * _SMOOTH
    )
    windscreen = [pen.place(np.array([front * 0.55, side * half * 0.75])) for side in (1, -1)]
    pen.draw.line(windscreen, fill="#424a53", width=2 * _SMOOTH)


def _draw_numbers(draw: ImageDraw.ImageDraw, view: _View, area: tuple[int, int]) -> None:
    digits = max(0, -math.floor(math.log10(view.step)))
    for x in view.rows():
        y = area[1] + view.pixel(x, 0)[1]
        if area[1] + 8 <= y <= area[1] + view.height - 8:
            draw.text((area[0] - 8, y), f"{x:.{digits}f}", MUTED_COLOUR, font(_LABEL_SIZE), anchor="rm")
    below = area[1] + view.height
    for left in view.columns():
        x = area[0] + view.pixel(0, left)[0]
        if area[0] + 12 <= x <= area[0] + view.width - 12:
            draw.text((x, below + 4), f"{left:.{digits}f}", MUTED_COLOUR, font(_LABEL_SIZE), anchor="ma")
    middle = area[0] + view.width / 2
    title = "metres to the left (right is negative); a dot every second"
    draw.text((middle, below + 24), title, MUTED_COLOUR, font(_LABEL_SIZE), anchor="ma")


def _draw_legend(
    canvas: Image.Image, box: tuple[int, int, int, int], count: int, past: bool, truth: bool
) -> int:
    draw = ImageDraw.Draw(canvas)
    shown = min(count, len(PALETTE))
    entries = [(f"{k + 1}", colour_of(k), False) for k in range(shown)]
    if count > shown:
        entries.append((f"and {count - shown} more", "", False))
    entries += [("history", HISTORY_COLOUR, False)] * past + [("true future", TRUTH_COLOUR, True)] * truth
    word = "Candidates" if count > 1 else "Candidate"
    draw.text((box[0], box[1]), word, MUTED_COLOUR, font(16))
    start = x = box[0] + width_of(word, 16) + 12
    y = float(box[1])
    for name, colour, dashed in entries:
        sample = 18 if colour else 0
        length = sample + 6 + width_of(name, 16)
        if x + length > box[2] and x > start:
            x, y = start, y + _LEGEND_ROW
        for begin in ((0, 11) if dashed else (0,)) if colour else ():
            end = begin + 7 if dashed else sample
            draw.rectangle((x + begin, y + 8, x + end, y + 8 + (2 if dashed else 4)), fill=colour)
        draw.text((x + sample + 6, y), name, TEXT_COLOUR, font(16))
        x += length + 12
    return int(y) - box[1] + _LEGEND_ROW

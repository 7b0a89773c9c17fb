# SPDX-License-Identifier: Apache-2.0
"""Small SVG drawings for the report: lines, stacked bars, a scene from above. Text sizes suit a phone's
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from alpamayo_rt.plot_scene import HISTORY_COLOUR, TRUTH_COLOUR, colour_of

_W, _H, _LEFT, _BOTTOM, _TOP = 420, 260, 44, 38, 10


@dataclass(frozen=True)
class Line:
    """A curve in the colour of its run; `band` (n, 2) is drawn behind it."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    band: Sequence[Sequence[float]] | None = None


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    span = max(high - low, 1e-9)
    step = 10.0 ** np.floor(np.log10(span / about))
    step *= next(f for f in (1, 2, 5, 10) if span / (step * f) <= about)
    first = np.ceil(low / step - 1e-9)
    return [float(round(k * step, 10)) + 0.0 for k in np.arange(first, high / step + 1e-9)]


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, y_label: str, x_max: float, y_max: float
) -> str:
    """Curves over axes that start at zero."""
    right, bottom = _W - 10, _H - _BOTTOM
    x_max, y_max = max(x_max, 1e-6), max(y_max, 1e-6)

    def px(x: float) -> float:
        return _LEFT + (right - _LEFT) * x / x_max

    def py(y: float) -> float:
        return bottom - (bottom - _TOP) * y / y_max

    parts = [f'<svg class="chart" viewBox="0 0 {_W} {_H}" role="img" aria-label="{escape(title, True)}">']
    for value in ticks(0, y_max):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{py(value):.1f}" y2="{py(value):.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{py(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(0, x_max, 7):
        parts.append(
            f'<text class="tick" x="{px(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>'
        )
    # What lies beyond the axes is cut off at them.
    inside = f"{_LEFT} {_TOP} {right - _LEFT} {bottom - _TOP}"
    parts.append(
        f'<svg x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}" viewBox="{inside}">'
    )
    for line in lines:
        if line.band is not None:
            there = [(px(x), py(hi)) for x, (_, hi) in zip(line.x, line.band, strict=True)]
            back = [(px(x), py(lo)) for x, (lo, _) in zip(line.x, line.band, strict=True)][::-1]
            parts.append(f'<polygon points="{_points(there + back)}" fill="{line.colour}" opacity="0.15"/>')
    for line in lines:
        places = [(px(x), py(y)) for x, y in zip(line.x, line.y, strict=True)]
        parts.append(
            f'<polyline points="{_points(places)}" fill="none" stroke="{line.colour}" stroke-width="2"/>'
        )
    parts.append("</svg>")
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text class="axis" x="{(_LEFT + right) / 2}" y="{_H - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    parts.append(
        f'<text class="axis" x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">'
        f"{escape(y_label)}</text></svg>"
    )
    return "".join(parts)


def bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]], unit: str) -> str:
    """One stacked bar a row: its name, and (part, value, colour)."""
    longest = max((sum(value for _, value, _ in parts) for _, parts in rows), default=0.0) or 1.0
    high = 40 * len(rows) + 6
    out = [f'<svg class="chart" viewBox="0 0 {_W} {high}" role="img" aria-label="{escape(title, True)}">']
    for n, (name, parts) in enumerate(rows):
        y, x, total = 40 * n, 0.0, sum(value for _, value, _ in parts)
        out.append(f'<text class="tick" x="0" y="{y + 12}">{escape(name)}</text>')
        out.append(
            f'<text class="tick" x="{_W}" y="{y + 12}" text-anchor="end">{total:,.1f} {escape(unit)}</text>'
        )
        for part, value, colour in parts:
            width = _W * value / longest
            out.append(
                f'<rect x="{x:.2f}" y="{y + 17}" width="{max(width, 0.3):.2f}" height="14" fill="{colour}">'
                f"<title>{escape(part)}: {value:,.1f} {escape(unit)}</title></rect>"
            )
            x += width
    return "".join(out) + "</svg>"


def scene(candidates: np.ndarray, truth: np.ndarray) -> str:
    """Candidates (K, W, 2) and the true future (W, 2) from above, forward up; metres, one scale for both
    axes.
    """
    paths = [np.vstack([np.zeros(2), np.asarray(path)]) for path in (*candidates, truth)]
    points = np.vstack([*paths, [[14, 4], [-5, -4]]])
    ahead, left = points[:, 0], points[:, 1]
    low_x, high_x = ahead.min(), ahead.max()
    # At least so wide that a straight drive does not become a needle.
    half = max(float(np.abs(left).max()) + 1.5, (high_x - low_x) * 0.28)
    scale = 300 / (high_x - low_x)
    width, height = 2 * half * scale, 300.0

    def place(path: np.ndarray) -> str:
        return _points([((half - y) * scale, (high_x - x) * scale) for x, y in path])

    out = [f'<svg class="scene" viewBox="-6 -6 {width + 12:.0f} {height + 12:.0f}" role="img" '
           f'aria-label="candidates and the true future from above">']  # fmt: skip
    for value in ticks(float(low_x), float(high_x), 6):
        y = (high_x - value) * scale
        out.append(f'<line class="grid" x1="0" x2="{width:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="0" y="{y - 3:.1f}">{value:g} m</text>')
    car = np.array([[3.5, 1.05], [3.5, -1.05], [-1.4, -1.05], [-1.4, 1.05]])
    out.append(f'<polygon points="{place(car)}" fill="{HISTORY_COLOUR}" opacity="0.6"/>')
    for k, path in enumerate(paths[:-1]):
        out.append(f'<polyline points="{place(path)}" fill="none" stroke="{colour_of(k)}" stroke-width="2"/>')
        x, y = (half - path[-1, 1]) * scale, (high_x - path[-1, 0]) * scale
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour_of(k)}"/>')
    out.append(
        f'<polyline points="{place(paths[-1])}" fill="none" stroke="{TRUTH_COLOUR}" stroke-width="2.5" '
        'stroke-dasharray="7 5"/></svg>'
    )
    return "".join(out)


def _points(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)

# SPDX-License-Identifier: Apache-2.0
"""The shape of the road: a reference line, lanes beside it, and the three ways through a junction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LANE_WIDTH = 3.5
LINE_STEP = 0.5
LINE_LENGTH = 300.0
TURN_RADIUS = {"left": 11.0, "right": 8.5}
TURN_RAMP = 5.0
BRANCHES = ("left", "straight", "right")


@dataclass(frozen=True)
class Path:
    """A drivable curve; all arrays (n,), metres and radians, sorted by arc length `s`.

    `main_s` is the arc length along the reference line beside each point, and keeps growing after a turn, so
    that places given along the reference line can be found on every path.
    """

    s: np.ndarray
    x: np.ndarray
    y: np.ndarray
    heading: np.ndarray
    curvature: np.ndarray
    main_s: np.ndarray

    def pose(self, s: np.ndarray | float) -> np.ndarray:
        """Poses (..., 3) of x, y, heading at arc lengths `s`."""
        return np.stack([np.interp(s, self.s, a) for a in (self.x, self.y, self.heading)], -1)

    def from_main(self, main_s: float) -> float:
        """Arc length on this path beside `main_s` on the reference line."""
        return float(np.interp(main_s, self.main_s, self.s))


@dataclass(frozen=True)
class Junction:
    """Where a straight cross road meets the reference line; its heading points to the left of ego."""

    main_s: float
    x: float
    y: float
    main_heading: float
    cross_heading: float
    cross_lanes: int  # in each direction

    @property
    def half_width(self) -> float:
        """Half the width of the cross road's lanes in metres."""
        return self.cross_lanes * LANE_WIDTH


def curve_bump(s: np.ndarray, start: float, radius: float, angle: float, ramp: float) -> np.ndarray:
    """Curvature (n,) of one bend that starts at `start`, turns by the signed `angle`, with linear ramps."""
    hold = max(abs(angle) * radius - ramp, 1.0)
    knots = [start, start + ramp, start + ramp + hold, start + 2 * ramp + hold]
    return np.interp(s, knots, [0.0, 1.0, 1.0, 0.0]) * math.copysign(1.0 / radius, angle)


def line_from_curvature(curvature: np.ndarray, step: float = LINE_STEP) -> Path:
    """Integrate curvature (n,) sampled every `step` metres into a line that leaves the origin along x."""
    heading = np.concatenate([[0.0], np.cumsum(0.5 * (curvature[1:] + curvature[:-1]) * step)])
    middle = 0.5 * (heading[1:] + heading[:-1])
    x = np.concatenate([[0.0], np.cumsum(np.cos(middle) * step)])
    y = np.concatenate([[0.0], np.cumsum(np.sin(middle) * step)])
    s = np.arange(len(curvature)) * step
    return Path(s, x, y, heading, curvature, s)


def offset_path(line: Path, offset: float) -> Path:
    """The curve `offset` metres to the left of `line`."""
    x = line.x - np.sin(line.heading) * offset
    y = line.y + np.cos(line.heading) * offset
    s = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    return Path(s, x, y, line.heading, line.curvature / (1 - line.curvature * offset), line.main_s)


def junction_at(line: Path, main_s: float, skew: float, cross_lanes: int) -> Junction:
    """A junction on `line`, the cross road `skew` radians off the perpendicular."""
    x, y, heading = line.pose(main_s)
    return Junction(
        main_s, float(x), float(y), float(heading), float(heading) + math.pi / 2 + skew, cross_lanes
    )


def branch_path(line: Path, offset: float, junction: Junction, branch: str) -> Path:
    """The lane at `offset` of `line`, continued through the junction into `branch`.

    A turn is ramp, arc, ramp between the ego lane and the nearest lane of the cross road; it is symmetric, so
    that one tangent length places it.
    """
    lane = offset_path(line, offset)
    if branch == "straight":
        return lane
    left = branch == "left"
    out = junction.cross_heading if left else junction.cross_heading - math.pi
    angle = math.remainder(out - junction.main_heading, 2 * math.pi)
    radius = TURN_RADIUS[branch]
    length = abs(angle) * radius + TURN_RAMP
    n = int(length / 0.25) + 1
    u = np.linspace(0.0, length, n)
    kappa = np.interp(u, [0, TURN_RAMP, length - TURN_RAMP, length], [0.0, 1.0, 1.0, 0.0])
    kappa *= angle / (length - TURN_RAMP)
    curve = line_from_curvature(kappa, length / (n - 1))
    tangent_length = curve.y[-1] / math.sin(angle)

    # The two lane lines meet at distance `ahead` from the junction's centre along the ego lane.
    lateral = -0.5 * LANE_WIDTH
    forward = np.array([math.cos(junction.main_heading), math.sin(junction.main_heading)])
    side = np.array([-forward[1], forward[0]])
    across = np.array([-math.sin(out), math.cos(out)])
    start = np.array([junction.x, junction.y]) + side * offset
    ahead = (lateral - (start - (junction.x, junction.y)) @ across) / (forward @ across)
    entry = ahead - tangent_length
    base = start + forward * entry
    c, s = math.cos(junction.main_heading), math.sin(junction.main_heading)
    x = base[0] + c * curve.x - s * curve.y
    y = base[1] + s * curve.x + c * curve.y
    heading = junction.main_heading + curve.heading

    keep = lane.main_s < junction.main_s + entry - 0.05
    tail = np.arange(1.0, 121.0)
    px = np.concatenate([lane.x[keep], x, x[-1] + tail * math.cos(heading[-1])])
    py = np.concatenate([lane.y[keep], y, y[-1] + tail * math.sin(heading[-1])])
    ph = np.concatenate([lane.heading[keep], heading, np.full(len(tail), heading[-1])])
    pk = np.concatenate([lane.curvature[keep], kappa, np.zeros(len(tail))])
    ps = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(px), np.diff(py)))])
    first = junction.main_s + entry
    main_s = np.concatenate([lane.main_s[keep], first + u, first + length + tail])
    return Path(ps, px, py, ph, pk, main_s)


def turn_span(path: Path, junction: Junction) -> tuple[float, float]:
    """First and last arc length of the turn on `path` (where it is clearly curved near the junction)."""
    near = (np.abs(path.main_s - junction.main_s) < 40.0) & (np.abs(path.curvature) > 0.05)
    where = np.flatnonzero(near)
    return float(path.s[where[0]]), float(path.s[where[-1]])

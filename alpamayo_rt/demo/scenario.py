# SPDX-License-Identifier: Apache-2.0
"""The seeded choice of a scene: what will make the driver act, where, and what else stands around.

Every cause draws the speed from the same range and places its reason so that braking starts about where the
clip's own window is, so that the past motion alone says little about what comes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from alpamayo_rt.demo.arrays import FIRST_WINDOW, LAST_WINDOW
from alpamayo_rt.demo.driver import (
    EGO_FRONT,
    STEP,
    Style,
    roll_out,
    slow_onset_distance,
    stop_onset_distance,
)
from alpamayo_rt.demo.road import (
    LANE_WIDTH,
    LINE_LENGTH,
    LINE_STEP,
    TURN_RADIUS,
    Junction,
    Path,
    curve_bump,
    junction_at,
    line_from_curvature,
)

START_S = 40.0
LATERAL_COMFORT = 2.2  # m/s2, sets the speed in curves
TURN_COMFORT = 3.0  # the same for turns at junctions
LATE_SHARE = 0.2
_STANDING_SHARE = {
    "green_light": 0.25,
    "lead_stopped": 0.16,
    "red_light": 0.16,
    "pedestrian": 0.16,
    "cross_traffic": 0.09,
}
ZONE_SPEED = {20: 20 / 3.6, 30: 30 / 3.6}


@dataclass
class Plan:
    """What was chosen for one clip; places are arc lengths along the reference line in metres."""

    cause: str
    style: Style
    v: float
    wanted: float
    t0: int
    line: Path
    lanes_left: int
    lanes_right: int
    ego_lane: int
    junction: Junction | None = None
    navigation: str | None = None
    stop_s: float | None = None
    stop_dashed: bool = False
    zebra_s: float | None = None
    light_from: str | None = None  # colour at the start of the clip
    light_switch: float = math.inf  # seconds at which it turns green
    zone: tuple[float, int] | None = None
    plain_sign: tuple[float, int] | None = None
    curve: tuple[float, float, float] | None = None  # start, radius, signed angle
    lead_mode: str | None = None  # braking, stopped or cruising
    lead_kind: str = "car"
    lead_gap: float = 0.0
    brake_time: float = math.inf
    pedestrian_clear: float | None = None
    pedestrian_side: int = 1
    cross_clear: list[tuple[float, int]] = field(default_factory=list)  # (time, direction)

    @property
    def offset(self) -> float:
        """Lateral place of the ego's lane, to the left of the reference line in metres."""
        return -(self.ego_lane + 0.5) * LANE_WIDTH


def plan_scene(rng: np.random.Generator, cause: str) -> Plan:
    """Choose a scene in which `cause` should decide what the driver does."""
    u = rng.uniform
    style = Style(u(1.5, 2.1), u(1.8, 2.4), u(1.1, 1.4), u(1.4, 2.1), u(1.1, 1.7), u(0.3, 0.5))
    lanes_left, lanes_right = [(1, 1), (1, 2), (2, 2)][int(rng.integers(3))]
    wanted = u(8.0, 13.0)
    v = wanted * (u(0.4, 0.85) if u() < 0.3 else u(0.94, 1.0))
    plan = Plan(
        cause=cause,
        style=style,
        v=v,
        wanted=wanted,
        t0=int(rng.integers(FIRST_WINDOW + 2, LAST_WINDOW + 1)),
        line=_EMPTY,
        lanes_left=lanes_left,
        lanes_right=lanes_right,
        ego_lane=int(rng.integers(lanes_right)),
    )
    # Mostly the driver has not reacted yet at t0, sometimes for a second already.
    onset = plan.t0 - int(rng.integers(5, 14) if u() < LATE_SHARE else rng.integers(-8, 2))
    standing = u() < _STANDING_SHARE.get(cause, 0.0)
    if standing:
        plan.v = 0.0
    _BUILDERS[cause](rng, plan, _reach(plan, onset), standing)
    _finish_line(rng, plan)
    return plan


class _Reach(NamedTuple):
    """Where the ego is and how fast, when it should start to react."""

    s: float
    v: float


def _reach(plan: Plan, step: int) -> _Reach:
    motion = roll_out(max(step, 0) + 1, START_S, plan.v, plan.wanted, plan.style, [])
    return _Reach(float(motion.s[-1]), float(motion.v[-1]))


def _stop_place(plan: Plan, reach: _Reach, standing: bool, margin: float = 0.8) -> float:
    if standing:
        return START_S + EGO_FRONT + margin + 0.02
    return reach.s + stop_onset_distance(reach.v, plan.style, margin)


def _put_junction(
    rng: np.random.Generator, plan: Plan, stop_s: float | None, main_s: float | None = None
) -> None:
    """A junction behind the stop line at `stop_s`, or with its centre at `main_s`."""
    cross_lanes = int(rng.integers(1, 3))
    if main_s is None:
        assert stop_s is not None
        main_s = stop_s + cross_lanes * LANE_WIDTH + 5.0
    skew = rng.uniform(-0.17, 0.17)
    # The line does not exist yet: its pose here is filled in by `_finish_line`.
    plan.junction = Junction(main_s, 0.0, 0.0, 0.0, skew, cross_lanes)
    plan.stop_s = main_s - cross_lanes * LANE_WIDTH - 5.0
    # Turns are named more often, so that a named turn does not already mean that the turn decides.
    plan.navigation = ("left", "straight", "right")[int(rng.choice(3, p=[0.4, 0.2, 0.4]))]


def _red_light(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    _put_junction(rng, plan, _stop_place(plan, reach, standing))
    plan.light_from = "red"


def _green_light(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    plan.light_from = "red"
    plan.light_switch = plan.t0 * STEP - rng.uniform(0.0, 0.4)
    if not standing:
        if rng.uniform() < 0.45:
            reach = _reach(plan, plan.t0 - int(rng.integers(4, 14)))
        else:
            plan.light_from = "green"
            plan.light_switch = -math.inf
    _put_junction(rng, plan, _stop_place(plan, reach, standing))
    if plan.light_switch < 0.0:
        plan.navigation = "straight"


def _pedestrian(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    stop = _stop_place(plan, reach, standing)
    plan.zebra_s = stop + 1.5
    plan.pedestrian_side = int(rng.choice([-1, 1]))
    plan.pedestrian_clear = plan.t0 * STEP + (rng.uniform(0.8, 3.5) if standing else rng.uniform(2.2, 5.5))
    if rng.uniform() < 0.6:
        _put_junction(rng, plan, None, stop + 16.0 + rng.uniform(0.0, 6.0))
    plan.stop_s = stop


def _cross_traffic(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    _put_junction(rng, plan, _stop_place(plan, reach, standing))
    plan.stop_dashed = True
    clear = plan.t0 * STEP + (rng.uniform(0.8, 3.5) if standing else rng.uniform(2.2, 5.0))
    side = int(rng.choice([-1, 1]))
    plan.cross_clear = [(clear, side)]
    if rng.uniform() < 0.5:
        plan.cross_clear.append((clear - rng.uniform(1.6, 2.4), side if rng.uniform() < 0.5 else -side))


def _curve(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    radius = max(12.0, rng.uniform(11.0, min(28.0, max(reach.v - 2.2, 5.1) ** 2 / LATERAL_COMFORT)))
    angle = math.radians(rng.uniform(50.0, 90.0)) * rng.choice([-1.0, 1.0])
    speed = math.sqrt(LATERAL_COMFORT * radius)
    start = reach.s + slow_onset_distance(reach.v, speed, plan.style) - 4.0
    plan.curve = (start, radius, angle)
    if rng.uniform() < 0.55:
        _put_junction(rng, plan, None, start + abs(angle) * radius + rng.uniform(26.0, 50.0))
    _maybe_cruising_lead(rng, plan)


def _speed_zone(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    number = 20 if reach.v < 11.2 or rng.uniform() < 0.5 else 30
    plan.zone = (reach.s + slow_onset_distance(reach.v, ZONE_SPEED[number], plan.style), number)
    if rng.uniform() < 0.4:
        _put_junction(rng, plan, None, plan.zone[0] + rng.uniform(14.0, 45.0))
    else:
        _maybe_cruising_lead(rng, plan)


def _turn(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    branch = "left" if rng.uniform() < 0.5 else "right"
    speed = math.sqrt(TURN_COMFORT * TURN_RADIUS[branch])
    # Braking late and well, so that 6.4 s reach into the branch.
    plan.style = replace(plan.style, slow_onset=rng.uniform(1.7, 2.5))
    _put_junction(rng, plan, None, reach.s + slow_onset_distance(reach.v, speed, plan.style) + 9.0)
    plan.navigation = branch
    plan.stop_dashed = True


def _free_road(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    kind = rng.uniform()
    if kind < 0.25:
        _put_junction(rng, plan, None, reach.s + rng.uniform(15.0, 45.0))
        plan.navigation = "straight"
    elif kind < 0.6:
        _put_junction(rng, plan, None, reach.s + rng.uniform(50.0, 80.0))
    else:
        if rng.uniform() < 0.35:
            plan.zebra_s = reach.s + rng.uniform(12.0, 45.0)
        _maybe_cruising_lead(rng, plan)
    plan.stop_dashed = True


def _lead_braking(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    late = rng.uniform() < LATE_SHARE
    plan.lead_mode = "braking"
    plan.brake_time = plan.t0 * STEP - (rng.uniform(0.4, 1.3) if late else rng.uniform(0.0, 0.3))
    plan.lead_gap = 3.5 + reach.v * plan.style.headway * rng.uniform(1.15, 1.5)
    _maybe_junction(rng, plan, reach.s + plan.lead_gap + rng.uniform(16.0, 50.0))


def _lead_stopped(rng: np.random.Generator, plan: Plan, reach: _Reach, standing: bool) -> None:
    plan.lead_mode = "stopped"
    stop = _stop_place(plan, reach, standing, 3.0)
    plan.lead_gap = stop - START_S - EGO_FRONT
    _maybe_junction(rng, plan, stop + rng.uniform(12.0, 32.0))


def _maybe_junction(rng: np.random.Generator, plan: Plan, main_s: float) -> None:
    """A junction farther ahead, so that navigation says little about the cause."""
    if rng.uniform() < 0.55:
        _put_junction(rng, plan, None, main_s)
        plan.stop_dashed = True


def _maybe_cruising_lead(rng: np.random.Generator, plan: Plan) -> None:
    if rng.uniform() < 0.45:
        plan.lead_mode = "cruising"
        plan.lead_gap = 4.0 + plan.v * rng.uniform(2.3, 3.6)


_BUILDERS = {
    "lead_braking": _lead_braking,
    "lead_stopped": _lead_stopped,
    "red_light": _red_light,
    "green_light": _green_light,
    "pedestrian": _pedestrian,
    "cross_traffic": _cross_traffic,
    "curve": _curve,
    "speed_zone": _speed_zone,
    "turn": _turn,
    "free_road": _free_road,
}


def _finish_line(rng: np.random.Generator, plan: Plan) -> None:
    """Bend the reference line gently everywhere, sharply at the curve, and not at all at the junction."""
    plan.lead_kind = "truck" if rng.uniform() < 0.45 else "car"
    if plan.plain_sign is None and plan.zone is None and rng.uniform() < 0.3:
        plan.plain_sign = (START_S + rng.uniform(35.0, 80.0), 50)
    s = np.arange(0.0, LINE_LENGTH + LINE_STEP / 2, LINE_STEP)
    knots = np.arange(0.0, LINE_LENGTH + 60.0, 60.0)
    amount = 1.0 / 130.0 if rng.uniform() < 0.6 else 0.0
    curvature = np.interp(s, knots, rng.uniform(-amount, amount, len(knots)))
    if plan.junction is not None:
        distance = np.abs(s - plan.junction.main_s)
        curvature *= np.clip((distance - 20.0) / 10.0, 0.0, 1.0)
    if plan.curve is not None:
        start, radius, angle = plan.curve
        middle = start + 0.5 * abs(angle) * radius
        curvature *= np.clip((np.abs(s - middle) - 30.0) / 10.0, 0.0, 1.0)
        curvature += curve_bump(s, start, radius, angle, 8.0)
    plan.line = line_from_curvature(curvature)
    if plan.junction is not None:
        j = plan.junction
        plan.junction = junction_at(plan.line, j.main_s, j.cross_heading, j.cross_lanes)


_EMPTY = line_from_curvature(np.zeros(3))

# SPDX-License-Identifier: Apache-2.0
"""A rule-based driver along a path: the strongest of a few constraints decides the acceleration.

Plain floats and no arrays inside the loop: a roll-out takes well under a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

STEP = 0.1
EGO_FRONT = 2.4  # bumper ahead of the reference point, metres
HARDEST_BRAKING = 4.6


@dataclass(frozen=True)
class Style:
    """How this driver drives; drawn per clip and hidden from the images, so futures keep some spread."""

    accel: float  # strongest acceleration, m/s2
    brake: float  # comfortable deceleration, m/s2
    headway: float  # s
    stop_onset: float  # braking for a standing obstacle starts when it needs this deceleration, m/s2
    slow_onset: float  # the same for a lower speed ahead, m/s2
    delay: float  # seconds until a released constraint is noticed


class Constraint(Protocol):
    """Something that may ask for less acceleration than the free road."""

    cause: str

    def accel(self, k: int, s: float, v: float, free: float, style: Style) -> float:
        """Acceleration wanted at step `k`, place `s`, speed `v`; `free` or more where it asks for nothing."""


@dataclass
class StopPoint:
    """Stop before arc length `s` while `begin` <= time < `end` (seconds)."""

    cause: str
    s: float
    begin: float = -math.inf
    end: float = math.inf
    margin: float = 0.8
    engaged: bool = False

    def accel(self, k: int, s: float, v: float, free: float, style: Style) -> float:
        """Intelligent-driver braking, from the moment that the stop needs clear braking."""
        if not self.begin <= k * STEP < self.end:
            self.engaged = False
            return free
        gap = self.s - s - EGO_FRONT
        if gap < -1.0:
            return free
        if not self.engaged:
            if v * v < 2 * style.stop_onset * max(gap - self.margin, 0.3) and gap > self.margin + 1.7:
                return free
            self.engaged = True
        wanted = self.margin + 0.5 * v * style.headway + v * v / (2 * math.sqrt(style.accel * style.brake))
        return min(free, free - style.accel * (wanted / max(gap, 0.3)) ** 2)


@dataclass
class SpeedTarget:
    """Be at most at speed `v` between arc lengths `begin` and `end`."""

    cause: str
    begin: float
    end: float
    v: float
    engaged: bool = False

    def accel(self, k: int, s: float, v: float, free: float, style: Style) -> float:
        """The constant deceleration that reaches the speed in time, once it is worth braking for."""
        if s > self.end:
            return free
        if s >= self.begin:
            return min(free, (self.v - v) / 0.7)
        needed = (v * v - self.v * self.v) / (2 * max(self.begin - s, 0.5))
        if needed >= style.slow_onset:
            self.engaged = True
        if not self.engaged:
            return free
        return min(free, -needed)


@dataclass
class Follow:
    """Keep distance to a vehicle ahead on the same path: its rear bumper `s` and speed `v` per step."""

    cause: str
    s: Sequence[float]
    v: Sequence[float]
    until_s: float = math.inf  # beyond this place the vehicle has left our path
    standing: bool = False  # a standing vehicle is braked for like a stop line
    engaged: bool = False

    def __post_init__(self) -> None:
        self._stop = StopPoint(self.cause, self.s[0], margin=3.0) if self.standing else None

    def accel(self, k: int, s: float, v: float, free: float, style: Style) -> float:
        """Intelligent-driver car following, from the moment that the gap closes clearly or is short."""
        if self._stop is not None:
            return self._stop.accel(k, s, v, free, style)
        gap = self.s[k] - s - EGO_FRONT
        if self.s[k] > self.until_s or gap < -2.0:
            return free
        # Before that the driver holds speed as on a free road, so that the past does not tell of the vehicle.
        self.engaged |= v - self.v[k] > 0.4 or gap < 2.0 + 0.5 * v
        if not self.engaged:
            return free
        closing = v * (v - self.v[k]) / (2 * math.sqrt(style.accel * style.brake))
        wanted = 2.0 + max(0.0, v * style.headway + closing)
        return min(free, free - style.accel * (wanted / max(gap, 0.5)) ** 2)


@dataclass
class BrakeProgram:
    """A scripted braking: from time `begin`, slow with `rate` until speed `v` and stay there."""

    cause: str
    begin: float
    rate: float
    v: float

    def accel(self, k: int, s: float, v: float, free: float, style: Style) -> float:
        """The scripted deceleration."""
        if k * STEP < self.begin:
            return free
        return max(-self.rate, (self.v - v) / 0.3)


@dataclass(frozen=True)
class Motion:
    """A roll-out, every array (steps,): arc length, speed, acceleration; which constraint was binding (its
    place in the list, -1 for none) and how far it pushed the acceleration below the free road's, m/s2."""

    s: np.ndarray
    v: np.ndarray
    a: np.ndarray
    binding: np.ndarray
    push: np.ndarray


def roll_out(
    steps: int,
    s: float,
    v: float,
    wanted_speed: float,
    style: Style,
    constraints: Sequence[Constraint],
    first: int = 0,
    a: float = 0.0,
) -> Motion:
    """Drive the steps `first` to `steps` of 0.1 s each from place `s` and speed `v` (m/s) towards
    `wanted_speed`; `a` is the acceleration before the first of them."""
    rows = []
    for k in range(first, steps):
        free = style.accel * (1.0 - (v / wanted_speed) ** 4)
        command, binding = free, -1
        for i, constraint in enumerate(constraints):
            asked = constraint.accel(k, s, v, free, style)
            if asked < command - 1e-9:
                command, binding = asked, i
        command = max(command, -HARDEST_BRAKING)
        push = free - command
        a += 0.4 * (command - a)  # pedals and chassis follow with a lag of about a quarter second
        if v + a * STEP < 0.0 or (v < 0.03 and command < 0.15):
            a = -v / STEP
        rows.append((s, v, a, binding, push))
        s += v * STEP + 0.5 * a * STEP * STEP
        v = max(0.0, v + a * STEP)
    table = np.array(rows)
    return Motion(table[:, 0], table[:, 1], table[:, 2], table[:, 3].astype(np.int64), table[:, 4])


def drive_on(
    motion: Motion, first: int, wanted_speed: float, style: Style, constraints: Sequence[Constraint]
) -> Motion:
    """Keep `motion` before step `first` (at least 1) and drive on from there under other `constraints`."""
    for k in range(first):
        # So that each constraint knows, as it would have, whether the driver reacts to it already.
        free = style.accel * (1.0 - (motion.v[k] / wanted_speed) ** 4)
        for constraint in constraints:
            constraint.accel(k, motion.s[k], motion.v[k], free, style)
    state = float(motion.s[first]), float(motion.v[first])
    before = float(motion.a[first - 1])
    rest = roll_out(len(motion.s), *state, wanted_speed, style, constraints, first, before)
    return Motion(
        *(np.concatenate([old[:first], new]) for old, new in zip(_parts(motion), _parts(rest), strict=True))
    )


def _parts(motion: Motion) -> tuple[np.ndarray, ...]:
    return motion.s, motion.v, motion.a, motion.binding, motion.push


def stop_onset_distance(v: float, style: Style, margin: float = 0.8) -> float:
    """Distance from the reference point to a stop point at which braking starts at speed `v`."""
    return v * v / (2 * style.stop_onset) + margin + EGO_FRONT


def slow_onset_distance(v: float, target: float, style: Style) -> float:
    """Distance to a lower speed at which braking starts at speed `v`."""
    return (v * v - target * target) / (2 * style.slow_onset)

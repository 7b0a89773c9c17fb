# SPDX-License-Identifier: Apache-2.0
"""Everything in the scene that is not road, as the boxes that the renderer draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alpamayo_rt.demo.arrays import BOXES, KIND, STEPS
from alpamayo_rt.demo.road import Path

BRAKE_LAMPS, HAZARD_LAMPS = 1, 2
VEHICLE_SIZE = {"car": (4.5, 1.9, 1.5), "truck": (7.5, 2.4, 3.1)}
CAR_COLOURS = (
    (0.62, 0.08, 0.07),
    (0.10, 0.20, 0.55),
    (0.85, 0.85, 0.86),
    (0.20, 0.21, 0.23),
    (0.55, 0.57, 0.60),
    (0.75, 0.60, 0.15),
    (0.10, 0.38, 0.28),
)
COAT_COLOURS = ((0.95, 0.75, 0.05), (0.90, 0.15, 0.45), (0.10, 0.75, 0.85), (0.95, 0.45, 0.05))


@dataclass
class Actor:
    """A moving thing: pose (STEPS, 3) of x, y, heading, lamps (STEPS,), size in metres."""

    kind: str  # car, truck or pedestrian
    pose: np.ndarray
    state: np.ndarray
    colour: tuple[float, float, float]

    @property
    def length(self) -> float:
        """Length in metres."""
        return 0.5 if self.kind == "pedestrian" else VEHICLE_SIZE[self.kind][0]

    @property
    def width(self) -> float:
        """Width in metres."""
        return 0.5 if self.kind == "pedestrian" else VEHICLE_SIZE[self.kind][1]


def pick(rng: np.random.Generator, colours: tuple) -> tuple[float, float, float]:
    """One of `colours`."""
    return colours[int(rng.integers(len(colours)))]


def along(path: Path, s: np.ndarray, reverse: bool = False) -> np.ndarray:
    """Poses (STEPS, 3) of something at arc lengths `s` (STEPS,) of `path`."""
    pose = path.pose(s)
    if reverse:
        pose[..., 2] += math.pi
    return pose


def beside(line: Path, main_s: float, offset: float) -> np.ndarray:
    """Pose (3,) at `offset` metres to the left of the reference line."""
    x, y, heading = line.pose(main_s)
    return np.array([x - math.sin(heading) * offset, y + math.cos(heading) * offset, heading])


class BoxList:
    """Fills the fixed-shape box arrays; what does not fit is left out: add the important first."""

    def __init__(self) -> None:
        self.pose = np.zeros((STEPS, BOXES, 3), np.float32)
        self.size = np.zeros((BOXES, 4), np.float32)
        self.kind = np.zeros(BOXES, np.int64)
        self.colour = np.zeros((BOXES, 3), np.float32)
        self.state = np.zeros((STEPS, BOXES), np.int64)
        self.used = 0

    def add(
        self,
        kind: str,
        pose: np.ndarray,
        size: tuple[float, float, float],
        bottom: float,
        colour: tuple[float, float, float],
        state: np.ndarray | int = 0,
    ) -> None:
        """One box; `pose` (3,) or (STEPS, 3), `size` length, width, height and `bottom` in metres."""
        if self.used >= BOXES:
            return
        i = self.used
        self.pose[:, i] = pose
        self.size[i] = (*size, bottom)
        self.kind[i] = KIND[kind]
        self.colour[i] = colour
        self.state[:, i] = state
        self.used += 1

    def add_actor(self, actor: Actor) -> None:
        """The boxes of a vehicle or a pedestrian."""
        pose, colour, state = actor.pose, actor.colour, actor.state
        if actor.kind == "pedestrian":
            swing = pose.copy()
            self.add("legs", swing, (0.42, 0.38, 0.85), 0.0, (0.10, 0.10, 0.16), state)
            self.add("torso", pose, (0.42, 0.60, 0.68), 0.85, colour, state)
            self.add("head", pose, (0.30, 0.30, 0.32), 1.53, (0.80, 0.58, 0.45), state)
            return
        length, width, height = VEHICLE_SIZE[actor.kind]
        self.add("shadow", pose, (length + 0.3, width + 0.3, 0.03), 0.0, (0.06, 0.06, 0.07))
        if actor.kind == "truck":
            self.add("truck", pose, (length, width, height - 0.45), 0.45, colour, state)
            return
        self.add("car", pose, (length, width, 0.72), 0.18, colour, state)
        cabin = pose.copy()
        cabin[..., 0] -= 0.25 * np.cos(pose[..., 2])
        cabin[..., 1] -= 0.25 * np.sin(pose[..., 2])
        self.add("cabin", cabin, (length * 0.52, width * 0.88, height - 0.9), 0.9, colour, state)

    def add_light(self, pose: np.ndarray, bottom: float, state: np.ndarray, arm: float) -> None:
        """A traffic light at `pose`; `arm` metres to its right stands the pole (0: below it)."""
        self.add("light", pose, (0.4, 1.05, 2.6), bottom, (0.05, 0.05, 0.06), state)
        x, y, heading = pose
        pole = np.array([x + math.sin(heading) * arm, y - math.cos(heading) * arm, heading])
        if arm:
            middle = np.array([x + math.sin(heading) * arm / 2, y - math.cos(heading) * arm / 2, heading])
            self.add("pole", pole, (0.25, 0.25, bottom + 2.7), 0.0, (0.32, 0.33, 0.35))
            self.add("pole", middle, (0.2, arm, 0.2), bottom + 2.6, (0.32, 0.33, 0.35))
        else:
            self.add("pole", pole, (0.2, 0.2, bottom), 0.0, (0.32, 0.33, 0.35))

    def add_sign(self, pose: np.ndarray, number: int) -> None:
        """A speed-limit plate with `number` on it."""
        self.add("sign", pose, (0.08, 1.25, 1.25), 1.9, (0.95, 0.95, 0.95), number)
        self.add("pole", pose, (0.1, 0.1, 1.9), 0.0, (0.45, 0.46, 0.48))

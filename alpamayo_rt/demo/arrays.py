# SPDX-License-Identifier: Apache-2.0
"""The fixed layout in which a simulated clip travels from worker processes to the renderer. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

STEPS = 101  # poses of a clip at 10 Hz, 10 s
HISTORY = 16
FUTURE = 64
FIRST_WINDOW = HISTORY - 1
LAST_WINDOW = STEPS - 1 - FUTURE
BOXES = 48
LINE_POINTS = 151  # reference line, one point every 2 m
BRANCH_POINTS = 121  # branch centre lines, one point a metre

CAUSES = (
    "lead_braking",
    "lead_stopped",
    "red_light",
    "green_light",
    "pedestrian",
    "cross_traffic",
    "curve",
    "speed_zone",
    "turn",
    "free_road",
)
ACTIONS = ("keep", "accelerate", "slow", "stop", "wait", "turn_left", "turn_right")
LIGHTS = ("day", "dusk", "rain")
COLOURS = ("red", "green")
NAVIGATION = ("left", "straight", "right")
LEADS = ("none", "car", "truck")
NEXT = ("left curve", "right curve", "junction", "straight road")

# What a box looks like; its face towards -x of its own frame is its rear.
KINDS = (
    "none",
    "car",
    "cabin",
    "truck",
    "shadow",
    "legs",
    "torso",
    "head",
    "light",
    "pole",
    "sign",
    "chevron",
    "building",
    "tree",
)
KIND = {name: i for i, name in enumerate(KINDS)}

# One float per fact about the painted road, so that a batch of scenes is one matrix.
ROAD_FIELDS = (
    "lanes_left",
    "lanes_right",
    "has_cross",
    "cross_x",
    "cross_y",
    "cross_cos",
    "cross_sin",
    "cross_half",
    "cross_s",
    "stop_s",  # stop line across the ego's lanes, far below zero where there is none
    "stop_dashed",
    "zebra_s",
    "sidewalk",
    "light",  # index into LIGHTS
    "sun",  # azimuth, radians
    "hills",  # phase of the skyline
    "grass",  # tint
)
ROAD = {name: i for i, name in enumerate(ROAD_FIELDS)}
NOWHERE = -1.0e4


@dataclass
class SceneArrays:
    """One simulated clip as plain arrays of fixed shape (or a batch: one more leading dimension).

    World frame: x forward at the start of the road, y left, z up, metres; the ego's pose is its reference
    point on the ground, at the centre of its length.
    """

    index: np.ndarray  # () int64, the clip's number
    ego: np.ndarray  # (STEPS, 6) float64: x, y, heading, speed, acceleration, curvature
    line: np.ndarray  # (LINE_POINTS, 5) float32: x, y, heading, arc length, curvature
    field_origin: np.ndarray  # (2,) float32: corner of the road lookup
    road: np.ndarray  # (len(ROAD_FIELDS),) float32
    box_pose: np.ndarray  # (STEPS, BOXES, 3) float32: x, y of the centre, heading
    box_size: np.ndarray  # (BOXES, 4) float32: length, width, height, height of its bottom above ground
    box_kind: np.ndarray  # (BOXES,) int64, index into KINDS
    box_colour: np.ndarray  # (BOXES, 3) float32, 0..1
    box_state: np.ndarray  # (STEPS, BOXES) int64: lamps of vehicles and lights, number on a sign
    cause: np.ndarray  # (STEPS,) int64, index into CAUSES; -1 outside the windows
    action: np.ndarray  # (STEPS,) int64, index into ACTIONS; -1 outside the windows
    t0: np.ndarray  # () int64: the step of the clip's own window
    light_colour: np.ndarray  # (STEPS,) int64, index into COLOURS; -1 where there is no light ahead
    lead: np.ndarray  # (STEPS,) int64, index into LEADS
    lanes: np.ndarray  # () int64, of the main road in both directions
    next_feature: np.ndarray  # (STEPS,) int64, index into NEXT
    navigation: np.ndarray  # () int64, index into NAVIGATION; -1 without a junction
    junction_distance: np.ndarray  # (STEPS,) float32: metres along the path to the junction's centre
    branches: np.ndarray  # (3, BRANCH_POINTS, 2) float32: world centre lines of left, straight, right
    word_seed: np.ndarray  # () int64, chooses among wordings

    @property
    def cause_name(self) -> str:
        """Cause at the clip's own window (of a single clip)."""
        return CAUSES[int(self.cause[int(self.t0)])]


def stack(scenes: Sequence[SceneArrays]) -> SceneArrays:
    """A batch of scenes: every array gets a leading dimension."""
    return SceneArrays(**{f.name: np.stack([getattr(s, f.name) for s in scenes]) for f in fields(SceneArrays)})

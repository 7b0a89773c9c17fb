# SPDX-License-Identifier: Apache-2.0
"""Who and what stands around: moving actors with their motion, lights, signs, houses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alpamayo_rt.demo.actors import (
    BRAKE_LAMPS,
    CAR_COLOURS,
    COAT_COLOURS,
    HAZARD_LAMPS,
    VEHICLE_SIZE,
    Actor,
    BoxList,
    along,
    beside,
    pick,
)
from alpamayo_rt.demo.arrays import STEPS
from alpamayo_rt.demo.driver import EGO_FRONT, STEP, BrakeProgram, Constraint, Motion, SpeedTarget, roll_out
from alpamayo_rt.demo.road import LANE_WIDTH, Path, offset_path
from alpamayo_rt.demo.scenario import START_S, Plan

TIME = np.arange(STEPS) * STEP
# One speed each, so that the place alone tells when the way will be free.
CROSS_SPEED = {"car": 7.5, "truck": 6.0}
WALKING_SPEED = 1.3


@dataclass
class Lead:
    """The vehicle ahead: its actor, its motion along the ego's lane, its half length in metres."""

    actor: Actor
    motion: Motion
    half_length: float


def make_lead(rng: np.random.Generator, plan: Plan, lane: Path, targets: list[SpeedTarget]) -> Lead | None:
    """Drive the planned lead vehicle; it obeys the same speed `targets` as the ego."""
    if plan.lead_mode is None:
        return None
    half = VEHICLE_SIZE[plan.lead_kind][0] / 2
    start = lane.from_main(START_S) + EGO_FRONT + plan.lead_gap + half
    wanted = plan.wanted * rng.uniform(1.0, 1.06)
    speed = 0.0 if plan.lead_mode == "stopped" else plan.v
    constraints: list[Constraint] = [
        SpeedTarget(t.cause, t.begin, t.end, t.v * rng.uniform(1.0, 1.1)) for t in targets
    ]
    if plan.lead_mode == "braking":
        constraints.append(
            BrakeProgram("lead_braking", plan.brake_time, rng.uniform(3.2, 4.4), rng.uniform(0.0, 1.2))
        )
    if plan.lead_mode == "stopped":
        constraints.append(BrakeProgram("lead_stopped", -1.0, 4.0, 0.0))
    motion = roll_out(STEPS, start, speed, wanted, plan.style, constraints)
    # A lead that only eases off for the same sign or curve as the ego coasts: lit lamps mean the cause.
    lamps = np.zeros(STEPS, np.int64)
    if plan.lead_mode == "braking":
        lamps = np.where(plan.brake_time <= TIME + 1e-9, BRAKE_LAMPS, 0)
    if plan.lead_mode == "stopped":
        lamps = np.full(STEPS, HAZARD_LAMPS)
    actor = Actor(plan.lead_kind, along(lane, motion.s), lamps, pick(rng, CAR_COLOURS))
    return Lead(actor, motion, half)


def make_pedestrian(rng: np.random.Generator, plan: Plan) -> Actor | None:
    """The pedestrian who clears the ego's lane at the planned time."""
    if plan.pedestrian_clear is None or plan.zebra_s is None:
        return None
    side, speed = plan.pedestrian_side, WALKING_SPEED
    clear = plan.offset + side * (LANE_WIDTH / 2 + 0.9)
    d = clear + side * speed * (TIME - plan.pedestrian_clear)
    d = np.clip(d, -plan.lanes_right * LANE_WIDTH - 2.2, plan.lanes_left * LANE_WIDTH + 2.2)
    base = beside(plan.line, plan.zebra_s + 1.5, 0.0)
    pose = np.stack(
        [
            base[0] - math.sin(base[2]) * d,
            base[1] + math.cos(base[2]) * d,
            np.full(STEPS, base[2] + side * math.pi / 2),
        ],
        -1,
    )
    walking = np.concatenate([[0], (np.diff(d) != 0).astype(np.int64)])
    return Actor("pedestrian", pose, walking, pick(rng, COAT_COLOURS))


def make_cross_traffic(rng: np.random.Generator, plan: Plan) -> list[Actor]:
    """Vehicles on the cross road, each clear of the ego's lane at its planned time."""
    if plan.junction is None:
        return []
    j, actors = plan.junction, []
    for clear_time, side in plan.cross_clear:
        kind = "truck" if rng.uniform() < 0.3 else "car"
        half = VEHICLE_SIZE[kind][0] / 2
        speed = CROSS_SPEED[kind]
        # side +1 comes from the right and drives towards +u, which points left.
        u = plan.offset + side * (2.8 + half) + side * speed * (TIME - clear_time)
        heading = j.cross_heading if side > 0 else j.cross_heading - math.pi
        cx, cy = math.cos(j.cross_heading), math.sin(j.cross_heading)
        x = j.x + cx * u + math.sin(heading) * LANE_WIDTH / 2
        y = j.y + cy * u - math.cos(heading) * LANE_WIDTH / 2
        pose = np.stack([x, y, np.full(STEPS, heading)], -1)
        actors.append(Actor(kind, pose, np.zeros(STEPS, np.int64), pick(rng, CAR_COLOURS)))
    return actors


def make_others(rng: np.random.Generator, plan: Plan) -> list[Actor]:
    """Traffic that does not matter: oncoming, in the next lane, parked beside the road."""
    actors = []
    calm = plan.cause in ("free_road", "curve", "speed_zone", "lead_braking", "lead_stopped")
    none = np.zeros(STEPS, np.int64)
    if calm and plan.navigation in (None, "straight"):
        for _ in range(int(rng.integers(0, 3))):
            lane = offset_path(plan.line, (int(rng.integers(plan.lanes_left)) + 0.5) * LANE_WIDTH)
            s = START_S + rng.uniform(40.0, 190.0) - rng.uniform(6.0, 9.0) * TIME
            actors.append(
                Actor("car", along(lane, np.clip(s, 0, None), reverse=True), none, pick(rng, CAR_COLOURS))
            )
        actors = [a for i, a in enumerate(actors) if all(_apart(a, b) for b in actors[:i])]
    if calm and plan.junction is None and plan.curve is None and plan.lanes_right == 2 and rng.uniform() < 0.5:
        lane = offset_path(plan.line, -(1 - plan.ego_lane + 0.5) * LANE_WIDTH)
        s = START_S + rng.uniform(-12.0, 30.0) + max(plan.v, 6.0) * rng.uniform(0.9, 1.1) * TIME
        actors.append(Actor("car", along(lane, s), none, pick(rng, CAR_COLOURS)))
    for _ in range(int(rng.integers(0, 3))):
        place = START_S + rng.uniform(10.0, 130.0)
        blocked = [plan.stop_s, plan.zebra_s, plan.junction.main_s if plan.junction else None]
        if plan.curve is not None or any(b is not None and abs(place - b) < 24.0 for b in blocked):
            continue
        pose = np.broadcast_to(beside(plan.line, place, -plan.lanes_right * LANE_WIDTH - 1.9), (STEPS, 3))
        actors.append(Actor("car", np.array(pose), none, pick(rng, CAR_COLOURS)))
    return actors


def _apart(a: Actor, b: Actor) -> bool:
    return bool(np.hypot(*(a.pose - b.pose)[:, :2].T).min() > 9.0)


def add_furniture(rng: np.random.Generator, plan: Plan, boxes: BoxList, light: np.ndarray) -> None:
    """Traffic lights showing `light` (STEPS,) colours, signs, chevrons."""
    right_edge = -plan.lanes_right * LANE_WIDTH
    if plan.light_from is not None and plan.junction is not None and plan.stop_s is not None:
        far = plan.junction.main_s + plan.junction.half_width + 8.0
        boxes.add_light(beside(plan.line, far, plan.offset), 3.0, light, plan.offset - right_edge + 1.8)
        boxes.add_light(beside(plan.line, plan.stop_s + 1.0, right_edge - 1.6), 2.4, light, 0.0)
    if plan.zone is not None:
        boxes.add_sign(beside(plan.line, plan.zone[0], right_edge - 1.5), plan.zone[1])
    if plan.curve is not None:
        start, radius, angle = plan.curve
        outside = (plan.lanes_left * LANE_WIDTH + 2.0) if angle < 0 else (right_edge - 2.0)
        for fraction in (0.2, 0.4, 0.6, 0.8):
            pose = beside(plan.line, start + 4.0 + fraction * abs(angle) * radius, outside)
            # Boards face the driver who has not turned as far yet.
            pose[2] -= 0.45 * angle * fraction
            boxes.add("chevron", pose, (0.1, 1.3, 1.3), 0.5, (0.95, 0.95, 0.95), 1 if angle > 0 else 2)
    if plan.plain_sign is not None:
        boxes.add_sign(beside(plan.line, plan.plain_sign[0], right_edge - 1.5), plan.plain_sign[1])


def add_houses(rng: np.random.Generator, plan: Plan, boxes: BoxList) -> None:
    """Houses and trees along the road, clear of both roads and of the view into the cross road."""
    width = max(plan.lanes_left, plan.lanes_right) * LANE_WIDTH
    points = np.stack([plan.line.x, plan.line.y], -1)[::8]
    for _ in range(14):
        tree = rng.uniform() < 0.45
        if tree:
            size = (rng.uniform(2.0, 3.5),) * 2 + (rng.uniform(4.0, 7.0),)
            colour = (0.10 + rng.uniform(0, 0.08), 0.27 + rng.uniform(0, 0.12), 0.10)
        else:
            size = (rng.uniform(8.0, 18.0), rng.uniform(7.0, 10.0), rng.uniform(5.0, 13.0))
            tint = rng.uniform(-0.1, 0.1)
            colour = (0.58 + tint, 0.48 + tint / 2 + rng.uniform(0, 0.1), 0.40 - tint / 2)
        side = rng.choice([-1.0, 1.0])
        away = width + 4.0 + 0.5 * size[1] + rng.uniform(1.0, 10.0)
        pose = beside(plan.line, START_S + rng.uniform(0.0, 170.0), side * away)
        if np.hypot(*(points - pose[:2]).T).min() < width + 3.0 + 0.5 * size[1]:
            continue
        if plan.junction is not None:
            j = plan.junction
            dx, dy = pose[0] - j.x, pose[1] - j.y
            across = abs(-math.sin(j.cross_heading) * dx + math.cos(j.cross_heading) * dy)
            if across < j.half_width + 9.0 + 0.5 * size[0]:
                continue
        boxes.add("tree" if tree else "building", pose, size, 0.0, colour)

# SPDX-License-Identifier: Apache-2.0
"""From a clip's number to its arrays: choose, drive, check that the named cause decided; numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alpamayo_rt.demo import arrays as A
from alpamayo_rt.demo.actors import Actor, BoxList
from alpamayo_rt.demo.driver import (
    STEP,
    Constraint,
    Follow,
    Motion,
    SpeedTarget,
    StopPoint,
    roll_out,
)
from alpamayo_rt.demo.labels import label_windows
from alpamayo_rt.demo.road import (
    BRANCHES,
    LANE_WIDTH,
    Path,
    branch_path,
    offset_path,
    turn_span,
)
from alpamayo_rt.demo.scenario import LATERAL_COMFORT, START_S, TURN_COMFORT, ZONE_SPEED, Plan, plan_scene
from alpamayo_rt.demo.scenery import (
    TIME,
    Lead,
    add_furniture,
    add_houses,
    make_cross_traffic,
    make_lead,
    make_others,
    make_pedestrian,
)
from alpamayo_rt.demo.visible import cause_in_view

SPLITS = {"train": 1, "test": 2}
ATTEMPTS = 200
LEAD_RANGE = 70.0  # metres; a vehicle farther ahead is no lead vehicle


def cause_of_index(split: str, seed: int, index: int) -> str:
    """The cause of clip `index`: every block of ten clips holds each cause once, in a seeded order."""
    block, place = divmod(index, len(A.CAUSES))
    order = np.random.default_rng([SPLITS[split], seed, block, 77]).permutation(len(A.CAUSES))
    return A.CAUSES[order[place]]


@dataclass(frozen=True)
class Drive:
    """A simulated clip, and what it takes to drive it on otherwise (`reroute`)."""

    scene: A.SceneArrays
    plan: Plan
    lead: Lead | None
    motion: Motion
    light: np.ndarray
    actors: list[Actor]


def simulate(split: str, seed: int, index: int) -> A.SceneArrays:
    """Clip `index` of the world `seed`; the split is part of every draw, so no two splits share a clip."""
    return simulate_drive(split, seed, index).scene


def simulate_drive(split: str, seed: int, index: int) -> Drive:
    """The same with what `reroute` needs."""
    cause = cause_of_index(split, seed, index)
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([SPLITS[split], seed, index, attempt])
        drive = _try(rng, plan_scene(rng, cause), index)
        if drive is not None:
            return drive
    raise RuntimeError(f"no scene for {split} clip {index} of world {seed} in {ATTEMPTS} attempts")


def _try(rng: np.random.Generator, plan: Plan, index: int) -> Drive | None:
    lane = offset_path(plan.line, plan.offset)
    path = lane
    if plan.junction is not None and plan.navigation is not None:
        path = branch_path(plan.line, plan.offset, plan.junction, plan.navigation)
    targets = speed_targets(plan, path)
    lead = make_lead(rng, plan, lane, targets)
    constraints = constraints_on(plan, path, targets, lead)
    motion = roll_out(A.STEPS, path.from_main(START_S), plan.v, plan.wanted, plan.style, constraints)
    pose = path.pose(motion.s)
    light = np.full(A.STEPS, -1)
    if plan.light_from is not None:
        light = np.where((plan.light_from == "green") | (plan.light_switch <= TIME + 1e-9), 1, 0)
        light[motion.s > path.from_main(plan.stop_s or 0.0) + 4.0] = -1
    distance = np.full(A.STEPS, 1e4)
    if plan.junction is not None:
        distance = path.from_main(plan.junction.main_s) - motion.s
    cause, action = label_windows(plan, constraints, motion, light, distance)
    if cause[plan.t0] != A.CAUSES.index(plan.cause) or motion.s[-1] > path.s[-1] - 20.0:
        return None

    pedestrian = make_pedestrian(rng, plan)
    cross, others = make_cross_traffic(rng, plan), make_others(rng, plan)
    moving = [lead.actor] if lead else []
    moving += ([pedestrian] if pedestrian else []) + cross
    if any(touch(pose, actor) for actor in moving):
        return None
    others = [a for a in others if not touch(pose, a) and not (lead and _meets(a, lead.actor))]

    ahead = np.zeros(A.STEPS, np.int64)
    if lead is not None:
        ahead[lead.motion.s - motion.s < LEAD_RANGE] = A.LEADS.index(plan.lead_kind)
    boxes = BoxList()
    for actor in moving:
        boxes.add_actor(actor)
    add_furniture(rng, plan, boxes, np.maximum(light, 0) if plan.light_switch < 0 else _lamps(plan))
    for actor in others:
        boxes.add_actor(actor)
    add_houses(rng, plan, boxes)
    if not cause_in_view(plan, pose[plan.t0], moving, boxes):
        return None
    scene = _arrays(rng, plan, path, motion, pose, light, distance, cause, action, ahead, boxes, index)
    return Drive(scene, plan, lead, motion, light, moving + others)


def _lamps(plan: Plan) -> np.ndarray:
    """Lamp shown at each step, also after the ego has passed."""
    return np.where((plan.light_from == "green") | (plan.light_switch <= TIME + 1e-9), 1, 0)


def speed_targets(plan: Plan, path: Path) -> list[SpeedTarget]:
    """The lower speeds that the road asks for along `path`: curve, speed zone, turn."""
    targets = []
    if plan.curve is not None:
        start, radius, angle = plan.curve
        # The lane's own radius differs from the reference line's.
        speed = math.sqrt(LATERAL_COMFORT * max(radius - math.copysign(plan.offset, angle * plan.offset), 8.0))
        end = start + abs(angle) * radius + 6.0
        targets.append(SpeedTarget("curve", path.from_main(start + 5.0), path.from_main(end), speed))
    if plan.zone is not None:
        targets.append(
            SpeedTarget("speed_zone", path.from_main(plan.zone[0]), math.inf, ZONE_SPEED[plan.zone[1]])
        )
    if plan.junction is not None and plan.navigation in ("left", "right"):
        begin, end = turn_span(path, plan.junction)
        sharpest = np.abs(path.curvature[(path.s >= begin) & (path.s <= end)]).max()
        targets.append(SpeedTarget("turn", begin, end, math.sqrt(TURN_COMFORT / sharpest)))
    return targets


def constraints_on(plan: Plan, path: Path, targets: list[SpeedTarget], lead: Lead | None) -> list[Constraint]:
    """Everything that may slow the driver down on `path`, not yet reacted to."""
    constraints: list[Constraint] = [*targets]
    delay = plan.style.delay
    if plan.light_from == "red":
        assert plan.stop_s is not None
        constraints.append(StopPoint("red_light", path.from_main(plan.stop_s), end=plan.light_switch + delay))
    if plan.pedestrian_clear is not None:
        assert plan.zebra_s is not None
        stop = path.from_main(plan.zebra_s - 1.5)
        constraints.append(StopPoint("pedestrian", stop, end=plan.pedestrian_clear + 0.3 * delay))
    if plan.cross_clear:
        assert plan.stop_s is not None
        last = max(t for t, _ in plan.cross_clear)
        constraints.append(StopPoint("cross_traffic", path.from_main(plan.stop_s), end=last + 0.3 * delay))
    if lead is not None:
        cause = "lead_stopped" if plan.lead_mode == "stopped" else "lead_braking"
        rear = (lead.motion.s - lead.half_length).tolist()
        leaves = math.inf
        if plan.junction is not None and plan.navigation != "straight":
            leaves = path.from_main(plan.junction.main_s) + 6.0
        standing = plan.lead_mode == "stopped"
        constraints.append(Follow(cause, rear, lead.motion.v.tolist(), leaves, standing))
    return constraints


def _circles(pose: np.ndarray, length: float, width: float) -> np.ndarray:
    """Centres (STEPS, n, 2) of circles that cover a vehicle."""
    n = max(1, math.ceil(length / width))
    offsets = (np.arange(n) - (n - 1) / 2) * (length / n)
    heading = pose[:, 2:3]
    return np.stack([pose[:, :1] + np.cos(heading) * offsets, pose[:, 1:2] + np.sin(heading) * offsets], -1)


def touch(ego: np.ndarray, actor: Actor) -> bool:
    """Whether the ego (4.8 m by 1.9 m) comes within a hand's breadth of `actor`."""
    if np.hypot(*(ego - actor.pose)[:, :2].T).min() > 9.0:
        return False
    mine, theirs = _circles(ego, 4.8, 1.9), _circles(actor.pose, actor.length, actor.width)
    gap = np.linalg.norm(mine[:, :, None] - theirs[:, None, :], axis=-1)
    return bool(gap.min() < 0.95 + actor.width / 2 + 0.1)


def _meets(a: Actor, b: Actor) -> bool:
    mine, theirs = _circles(a.pose, a.length, a.width), _circles(b.pose, b.length, b.width)
    return bool(np.linalg.norm(mine[:, :, None] - theirs[:, None, :], axis=-1).min() < 2.4)


def _next_feature(plan: Plan, s: np.ndarray, distance: np.ndarray, path: Path) -> np.ndarray:
    feature = np.full(A.STEPS, A.NEXT.index("straight road"))
    if plan.curve is not None:
        start, radius, angle = plan.curve
        end = path.from_main(start + abs(angle) * radius)
        near = (s > path.from_main(start) - 60.0) & (s < end)
        feature[near] = A.NEXT.index("left curve" if angle > 0 else "right curve")
    feature[(distance < 80.0) & (distance > 3.0)] = A.NEXT.index("junction")
    return feature


def _arrays(
    rng: np.random.Generator,
    plan: Plan,
    path: Path,
    motion: Motion,
    pose: np.ndarray,
    light: np.ndarray,
    distance: np.ndarray,
    cause: np.ndarray,
    action: np.ndarray,
    lead: np.ndarray,
    boxes: BoxList,
    index: int,
) -> A.SceneArrays:
    curvature = np.interp(motion.s, path.s, path.curvature)
    line = plan.line
    points = np.stack([line.x, line.y, line.heading, line.s, line.curvature], -1)[::4]
    road = np.zeros(len(A.ROAD_FIELDS), np.float32)
    kind = int(rng.integers(len(A.LIGHTS)))
    facts = {
        "lanes_left": plan.lanes_left,
        "lanes_right": plan.lanes_right,
        "cross_s": A.NOWHERE,
        "stop_s": A.NOWHERE if plan.stop_s is None else plan.stop_s,
        "stop_dashed": plan.stop_dashed,
        "zebra_s": A.NOWHERE if plan.zebra_s is None else plan.zebra_s,
        "sidewalk": rng.uniform() < 0.6 or plan.zebra_s is not None,
        "light": kind,
        "sun": rng.uniform(0, 2 * math.pi),
        "hills": rng.uniform(0, 100.0),
        "grass": rng.uniform(-1, 1),
    }
    branches = np.zeros((3, A.BRANCH_POINTS, 2), np.float32)
    if plan.junction is not None:
        j = plan.junction
        facts |= {
            "has_cross": 1,
            "cross_x": j.x,
            "cross_y": j.y,
            "cross_half": j.half_width,
            "cross_s": j.main_s,
        }
        facts |= {"cross_cos": math.cos(j.cross_heading), "cross_sin": math.sin(j.cross_heading)}
        for i, branch in enumerate(BRANCHES):
            other = branch_path(plan.line, plan.offset, j, branch)
            first = other.from_main(j.main_s) - 40.0
            branches[i] = other.pose(first + np.arange(A.BRANCH_POINTS))[:, :2]
    for name, value in facts.items():
        road[A.ROAD[name]] = value
    return A.SceneArrays(
        index=np.array(index),
        ego=np.concatenate([pose, np.stack([motion.v, motion.a, curvature], -1)], -1),
        line=points.astype(np.float32),
        field_origin=np.array([-60.0, points[:, 1].mean() - 160.0], np.float32).round(),
        road=road,
        box_pose=boxes.pose,
        box_size=boxes.size,
        box_kind=boxes.kind,
        box_colour=boxes.colour,
        box_state=boxes.state,
        cause=cause,
        action=action,
        t0=np.array(plan.t0),
        light_colour=light.astype(np.int64),
        lead=lead,
        lanes=np.array(plan.lanes_left + plan.lanes_right),
        next_feature=_next_feature(plan, motion.s, distance, path),
        navigation=np.array(-1 if plan.navigation is None else A.NAVIGATION.index(plan.navigation)),
        junction_distance=distance.astype(np.float32),
        branches=branches,
        word_seed=np.array(rng.integers(2**31)),
    )


__all__ = ["LANE_WIDTH", "SPLITS", "STEP", "Drive", "cause_of_index", "simulate", "simulate_drive"]

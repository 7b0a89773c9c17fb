# SPDX-License-Identifier: Apache-2.0
"""The simulated clips: repeatable, balanced, drivable, and decided by what they are named after."""

import subprocess
import sys

import numpy as np
import pytest

from alpamayo_rt.demo import simulate as simulation
from alpamayo_rt.demo.arrays import (
    CAUSES,
    FIRST_WINDOW,
    KIND,
    LAST_WINDOW,
    SceneArrays,
    stack,
)
from alpamayo_rt.demo.driver import Follow, StopPoint, Style, roll_out
from alpamayo_rt.demo.road import BRANCHES, branch_path, junction_at, line_from_curvature
from alpamayo_rt.demo.scenario import plan_scene
from alpamayo_rt.demo.simulate import cause_of_index, simulate
from alpamayo_rt.demo.statistics import constant_velocity_ade, summarize
from alpamayo_rt.demo.truth import branch_of, future, history, junction

STYLE = Style(1.8, 2.0, 1.2, 1.8, 1.4, 0.4)


def test_the_same_number_gives_the_same_clip_and_any_other_seed_or_split_another():
    first, again = simulate("train", 3, 7), simulate("train", 3, 7)
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, getattr(again, name), err_msg=name)
    for other in (simulate("test", 3, 7), simulate("train", 4, 7), simulate("train", 3, 8)):
        assert not np.array_equal(first.ego, other.ego)


def test_train_and_test_share_no_clip(scenes):
    def prints(clips: list[SceneArrays]) -> set[bytes]:
        return {c.ego.tobytes() + c.line.tobytes() + c.box_pose.tobytes() for c in clips}

    train = prints([simulate("train", 0, i) for i in range(200)])
    assert len(train) == 200
    assert len(prints(scenes)) == 400
    assert not train & prints(scenes)


def test_simulation_needs_no_torch():
    code = "import sys, alpamayo_rt.demo.simulate, alpamayo_rt.demo.truth; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_causes_are_uniform_and_every_window_is_labelled(scenes):
    for cause, row in summarize(scenes)["causes"].items():
        assert row["share"] == pytest.approx(0.1), cause
    for scene in scenes:
        inside = slice(FIRST_WINDOW, LAST_WINDOW + 1)
        assert (scene.cause[inside] >= 0).all()
        assert (scene.action[inside] >= 0).all()
        assert scene.cause_name == cause_of_index("test", 0, int(scene.index))


def test_a_constant_answer_is_right_at_most_half_of_the_time(scenes):
    for question, counts in summarize(scenes)["answers"].items():
        assert sum(counts.values()) >= 80, question
        assert max(counts.values()) <= 0.5 * sum(counts.values()), (question, counts)


def test_motion_is_comfortable_and_follows_from_its_own_acceleration(scenes):
    for scene in scenes:
        x, y, heading, v, a, curvature = scene.ego.T
        assert (a > -6).all()
        assert (a < 6).all()
        assert np.abs(curvature).max() < 0.3
        assert (v >= 0).all()
        np.testing.assert_allclose(np.diff(v), np.maximum(a[:-1] * 0.1, -v[:-1]), atol=1e-6)
        moved = np.hypot(np.diff(x), np.diff(y))
        np.testing.assert_allclose(moved, 0.05 * (v[:-1] + v[1:]), atol=0.02)
        turned = np.diff(heading)
        np.testing.assert_allclose(turned, 0.5 * (curvature[:-1] + curvature[1:]) * moved, atol=0.02)


def test_history_ends_where_the_future_begins(scenes):
    for scene in scenes[:50]:
        t0 = int(scene.t0)
        past, rot = history(scene, t0)
        ahead, _ = future(scene, t0)
        np.testing.assert_allclose(past[-1], 0, atol=1e-12)
        np.testing.assert_allclose(rot[-1], np.eye(3), atol=1e-12)
        joined = np.concatenate([past, ahead])
        assert np.abs(np.diff(joined, 2, axis=0)).max() < 0.15


def test_nobody_is_run_over(scenes):
    solid = [KIND[name] for name in ("car", "truck", "torso")]
    for scene in scenes:
        for box in np.flatnonzero(np.isin(scene.box_kind, solid)):
            delta = scene.ego[:, :2] - scene.box_pose[:, box, :2]
            c, s = np.cos(scene.ego[:, 2]), np.sin(scene.ego[:, 2])
            ahead, left = -(c * delta[:, 0] + s * delta[:, 1]), s * delta[:, 0] - c * delta[:, 1]
            # The box's centre stays outside the ego's outline (4.8 m by 1.9 m), with a margin.
            assert not ((np.abs(ahead) < 2.5) & (np.abs(left) < 1.05)).any(), int(scene.index)


def test_driving_on_straight_is_wrong_by_metres(scenes):
    for cause in CAUSES:
        errors = [constant_velocity_ade(s) for s in scenes if s.cause_name == cause]
        assert np.mean(errors) > (1.0 if cause == "free_road" else 4.0), cause


def test_past_speed_does_not_give_the_cause_away(scenes):
    """A nearest-neighbour guess from the past second and a half stays far below one in two."""
    past = np.array([s.ego[int(s.t0) - 15 : int(s.t0) + 1, 3] for s in scenes])
    label = np.array([int(s.cause[s.t0]) for s in scenes])
    distance = np.linalg.norm(past[:, None] - past[None], axis=-1) + 1e9 * np.eye(len(past))
    nearest = label[np.argsort(distance, 1)[:, :9]]
    guess = np.array([np.bincount(row, minlength=10).argmax() for row in nearest])
    assert (guess == label).mean() < 0.35


def test_without_its_cause_the_driver_would_have_gone_on(monkeypatch):
    """Removing the named constraint changes the future: the label is what decided."""
    checked = 0
    for index in range(60):
        scene = simulate("test", 0, index)
        cause = scene.cause_name
        if cause in ("green_light", "free_road"):
            continue
        original = simulation.constraints_on
        monkeypatch.setattr(
            simulation, "constraints_on", lambda *a, f=original, c=cause: [x for x in f(*a) if x.cause != c]
        )
        ways = {}
        monkeypatch.setattr(
            simulation,
            "roll_out",
            lambda *a, w=ways, s=scene: w.setdefault("free", roll_out(*a)),
        )
        rng = None
        for attempt in range(simulation.ATTEMPTS):
            rng = np.random.default_rng([simulation.SPLITS["test"], 0, index, attempt])
            plan = plan_scene(rng, cause)
            ways.clear()
            simulation._try(rng, plan, index)
            if plan.t0 == int(scene.t0) and abs(ways["free"].v[0] - scene.ego[0, 3]) < 1e-12:
                break
        monkeypatch.undo()
        t0 = int(scene.t0)
        assert ways["free"].v[t0 : t0 + 36].max() > scene.ego[t0 : t0 + 36, 3].min() + 0.7, index
        checked += 1
    assert checked == 48


def test_stop_points_are_stopped_at_and_released():
    motion = roll_out(150, 0.0, 10.0, 10.0, STYLE, [StopPoint("red_light", 60.0, end=10.0)])
    assert motion.v[95] < 0.1
    assert 55.5 < motion.s[95] + 2.4 < 60.0
    assert motion.v[-1] > 4.0


def test_a_standing_vehicle_ahead_is_not_approached_from_standstill():
    motion = roll_out(
        60, 0.0, 0.0, 10.0, STYLE, [Follow("lead_stopped", [5.42] * 60, [0.0] * 60, standing=True)]
    )
    assert motion.s[-1] < 0.6


@pytest.mark.parametrize("skew", [-0.17, 0.0, 0.17])
@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize("cross_lanes", [1, 2])
def test_every_branch_is_smooth_and_ends_in_its_lane(skew, lane, cross_lanes):
    line = line_from_curvature(np.zeros(601))
    crossing = junction_at(line, 120.0, skew, cross_lanes)
    for branch in BRANCHES:
        path = branch_path(line, -(lane + 0.5) * 3.5, crossing, branch)
        assert (np.diff(path.s) > 0).all()
        assert (np.diff(path.main_s) > 0).all()
        assert np.abs(np.diff(path.heading)).max() < 0.08
        assert np.abs(path.curvature).max() < 0.2
        length = path.from_main(120.0) + 40.0
        x, y, heading = path.pose(length)
        if branch != "straight":
            out = crossing.cross_heading - (np.pi if branch == "right" else 0)
            assert np.cos(heading - out) > 0.9999
            across = -np.sin(out) * (x - crossing.x) + np.cos(out) * (y - crossing.y)
            assert across == pytest.approx(-1.75, abs=0.02)


def test_branches_of_a_junction_are_told_apart_and_the_future_takes_the_named_one(scenes):
    reached = 0
    for scene in scenes:
        facts = junction(scene, int(scene.t0))
        if facts is None:
            continue
        for name, line in facts["branches"].items():
            assert branch_of(line, facts["branches"]) == name
            assert branch_of(line[:15], facts["branches"]) is None
        if facts["reaches_branch"]:
            reached += 1
            assert branch_of(future(scene, int(scene.t0))[0], facts["branches"]) == facts["branch"]
    assert reached > 80


def test_stacked_scenes_keep_their_order(scenes):
    both = stack(scenes[:2])
    np.testing.assert_array_equal(both.ego[1], scenes[1].ego)

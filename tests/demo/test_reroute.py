# SPDX-License-Identifier: Apache-2.0
"""A clip that is sent into another branch: the same up to its window, driven anew from there."""

from __future__ import annotations

import numpy as np
import pytest

from alpamayo_rt.demo import truth as window
from alpamayo_rt.demo.arrays import NAVIGATION
from alpamayo_rt.demo.reroute import reroute
from alpamayo_rt.demo.score import other_branch
from alpamayo_rt.demo.simulate import Drive, simulate_drive
from alpamayo_rt.demo.world import World


@pytest.fixture(scope="module")
def drives() -> list[Drive]:
    return [d for d in (simulate_drive("test", 0, i) for i in range(120)) if d.plan.junction is not None]


def _named(drive: Drive) -> str:
    return NAVIGATION[int(drive.scene.navigation)]


def test_the_same_branch_gives_the_same_drive(drives):
    """Nothing but the text changes the driver: what it reacted to before, it still reacts to."""
    for drive in drives:
        t0 = int(drive.scene.t0)
        same = reroute(drive, t0, _named(drive))
        assert same is not None
        np.testing.assert_allclose(same.ego, drive.scene.ego, atol=1e-9)
        assert same.cause[t0] == drive.scene.cause[t0]
        assert same.action[t0] == drive.scene.action[t0]
        np.testing.assert_allclose(same.junction_distance, drive.scene.junction_distance, atol=1e-3)


def test_another_branch_keeps_the_past_and_is_reached(drives):
    reached, refused = dict.fromkeys(NAVIGATION, 0), 0
    for drive in drives:
        t0 = int(drive.scene.t0)
        for branch in NAVIGATION:
            if branch == _named(drive):
                continue
            other = reroute(drive, t0, branch)
            if other is None:
                refused += 1
                continue
            np.testing.assert_array_equal(other.ego[: t0 + 1], drive.scene.ego[: t0 + 1])
            np.testing.assert_array_equal(other.box_pose, drive.scene.box_pose)
            x, y, _, v, a, curvature = other.ego[t0:].T
            np.testing.assert_allclose(np.hypot(np.diff(x), np.diff(y)), 0.05 * (v[:-1] + v[1:]), atol=0.02)
            assert np.abs(a).max() < 6
            assert (v**2 * np.abs(curvature)).max() < 4.0
            facts = window.junction(other, t0)
            assert facts is not None
            assert facts["branch"] == branch
            if facts["reaches_branch"]:
                reached[branch] += 1
                assert window.branch_of(window.future(other, t0)[0], facts["branches"]) == branch
            said = window.words(other, t0)
            assert branch in said["navigation"].lower()
            if said["cause"] == "turn":
                assert said["action"] == f"turn_{branch}"
    assert min(reached.values()) >= 5
    assert refused < 20


def test_what_comes_too_late_is_refused(drives):
    drive = next(d for d in drives if d.scene.cause_name == "turn")
    turned = int(np.flatnonzero(np.abs(drive.scene.ego[:, 5]) > 0.08)[0])
    assert reroute(drive, turned, "straight") is None


def test_a_road_without_junction_has_no_branch():
    drive = next(d for d in (simulate_drive("test", 0, i) for i in range(60)) if d.plan.junction is None)
    assert reroute(drive, int(drive.scene.t0), "left") is None


def test_the_scored_swap_is_one_that_can_be_driven():
    world, found = World(0), 0
    for index in range(60):
        scene = world.scene(index)
        name = None if scene.navigation < 0 else other_branch(world, index)
        if name is None:
            continue
        found += 1
        assert name != NAVIGATION[int(scene.navigation)]
        driven = world.rerouted(index, name)
        assert driven is not None
        facts = window.junction(driven, int(scene.t0))
        assert facts is not None
        assert facts["reaches_branch"]
    assert found >= 8

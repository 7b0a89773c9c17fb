# SPDX-License-Identifier: Apache-2.0
"""The demo world's promises: seeded, balanced, drivable, with causes that are in the picture."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import fields

import numpy as np
import pytest
import torch

from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.config import ActionSpaceConfig
from alpamayo_rt.demo import truth as window
from alpamayo_rt.demo.arrays import CAUSES, FIRST_WINDOW, LAST_WINDOW, SceneArrays
from alpamayo_rt.demo.simulate import simulate
from alpamayo_rt.demo.world import World
from alpamayo_rt.errors import InputError

CLIPS = 200


@pytest.fixture(scope="module")
def scenes() -> list[SceneArrays]:
    return [simulate("test", 0, i) for i in range(CLIPS)]


@pytest.fixture(scope="module")
def world() -> World:
    return World(0, "test")


def same(a: SceneArrays, b: SceneArrays) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(SceneArrays))


def test_the_same_number_gives_the_same_clip(scenes: list[SceneArrays]) -> None:
    assert all(same(scenes[i], simulate("test", 0, i)) for i in (0, 7, 19))


def test_another_seed_or_split_gives_another_clip(scenes: list[SceneArrays]) -> None:
    for i in range(20):
        others = simulate("train", 0, i), simulate("test", 1, i)
        assert not any(np.array_equal(scenes[i].ego, other.ego) for other in others)


def test_every_cause_has_its_share(scenes: list[SceneArrays]) -> None:
    found = Counter(scene.cause_name for scene in scenes)
    assert set(found) == set(CAUSES)
    assert len(CAUSES) >= 8
    assert all(0.05 * CLIPS <= n <= 0.25 * CLIPS for n in found.values()), found


def test_a_constant_answer_is_right_half_of_the_time_at_most(scenes: list[SceneArrays]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for scene in scenes:
        for asked in window.words(scene, int(scene.t0))["questions"]:
            answers[asked["question"]][asked["answer"]] += 1
    assert len(answers) == 4
    for question, found in answers.items():
        # A few answers more or less are chance at this number of clips.
        assert max(found.values()) <= 0.5 * found.total() + 1.0 * found.total() ** 0.5, (question, found)


def test_the_ego_vehicle_drives_as_a_vehicle_can(scenes: list[SceneArrays]) -> None:
    for scene in scenes:
        x, y, heading, speed, accel, curvature = scene.ego.T
        assert speed.min() >= 0
        assert np.abs(accel).max() < 9.8
        assert np.abs(curvature).max() < 0.33
        moved = np.hypot(np.diff(x), np.diff(y))
        assert np.abs(moved - 0.05 * (speed[1:] + speed[:-1])).max() < 0.06
        assert np.abs(np.diff(heading)).max() < 0.1 * (0.33 * speed.max() + 0.05)


def test_the_model_can_express_the_true_future(scenes: list[SceneArrays]) -> None:
    space = ActionSpaceConfig(
        64, 0.1, 0.0, 1.0, 0.0, 1.0, (-9.8, 9.8), (-0.33, 0.33),
        1e-4, 1e-4, 1e-4, 1e-4, 1e-6, 1e-8, 1e-6, 1e-4,
    )  # fmt: skip
    unicycle = Unicycle(space, torch.zeros(2), torch.ones(2))
    past = [window.history(s, int(s.t0)) for s in scenes]
    ahead = [window.future(s, int(s.t0)) for s in scenes]
    history = [torch.tensor(np.stack([p[i] for p in past]), dtype=torch.float32) for i in (0, 1)]
    future = [torch.tensor(np.stack([f[i] for f in ahead]), dtype=torch.float32) for i in (0, 1)]
    actions = unicycle.inverse(*history, *future)
    xyz, _ = unicycle.integrate(actions, *history)
    assert (xyz - future[0]).norm(dim=-1).mean(1).max() < 0.1
    # Driving on as before is no answer: the world asks for more than that.
    v0 = unicycle.initial_speed(*history)
    straight = v0[:, None] * 0.1 * torch.arange(1, 65)
    off = torch.hypot(straight - future[0][..., 0], future[0][..., 1]).mean()
    assert off > 4


def test_windows_of_one_clip_overlap_by_ten_a_second(world: World) -> None:
    scene = world.scene(4)
    early, late = window.future(scene, FIRST_WINDOW)[0], window.future(scene, FIRST_WINDOW + 1)[0]
    step = window.to_ego(scene.ego[FIRST_WINDOW + 2 : FIRST_WINDOW + 65, :2], scene.ego[FIRST_WINDOW + 1])
    assert np.allclose(late[:63, :2], step)
    assert early.shape == late.shape == (64, 3)
    for t0 in (FIRST_WINDOW - 1, LAST_WINDOW + 1):
        with pytest.raises(InputError, match="t0"):
            world.sample(4, t0)


def test_the_named_branch_is_where_the_future_ends(scenes: list[SceneArrays]) -> None:
    checked = Counter()
    for scene in scenes:
        t0 = int(scene.t0)
        junction = window.junction(scene, t0)
        if junction is None or not junction["reaches_branch"]:
            continue
        checked[junction["branch"]] += 1
        end = window.future(scene, t0)[0]
        assert window.branch_of(end, junction["branches"]) == junction["branch"]
        named = window.navigation(scene, t0)
        assert named is not None
        assert junction["branch"] in named.lower()
        other = next(b for b in junction["branches"] if b != junction["branch"])
        assert other in str(window.navigation(scene, t0, other)).lower()
    assert min(checked[b] for b in ("left", "right")) >= 5


@pytest.mark.parametrize(("split", "seed"), [("validation", 0), ("test", -1)])
def test_an_unknown_world_is_refused(split: str, seed: int) -> None:
    with pytest.raises(InputError):
        World(seed, split)

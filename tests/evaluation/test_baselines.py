# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from alpamayo_rt.action.unicycle import Unicycle, rotation_about_z
from alpamayo_rt.config import ActionSpaceConfig
from alpamayo_rt.evaluation.baselines import along_line, constant_rates, fan, history_rates
from alpamayo_rt.training.nano_config import build_tokenizer, model_config


@pytest.fixture(scope="module")
def unicycle():
    statistics = {"accel_mean": 0.0, "accel_std": 1.0, "curvature_mean": 0.0, "curvature_std": 0.1}
    space = model_config(build_tokenizer(), statistics)["action_space_cfg"]
    names = set(ActionSpaceConfig.__dataclass_fields__)
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in space.items() if k in names}
    return Unicycle(ActionSpaceConfig(**given), torch.zeros(2), torch.ones(2))


def _history(v0, accel, turn):
    """Sixteen poses of a vehicle with these rates, its present in the origin."""
    t = torch.arange(-15, 1).double() * 0.1
    yaw = turn * t
    fine = torch.arange(-1500, 1).double() * 1e-3
    speed = v0 + accel * fine
    step = torch.stack([speed * (turn * fine).cos(), speed * (turn * fine).sin()], -1) * 1e-3
    place = (step.cumsum(0) - step.sum(0))[::100]
    xyz = torch.cat([place, torch.zeros(16, 1).double()], -1)
    return xyz.float(), rotation_about_z(yaw).float()


@pytest.mark.parametrize(("v0", "accel", "turn"), [(10.0, 0.0, 0.0), (8.0, -1.5, 0.0), (6.0, 1.0, 0.3)])
def test_rates_are_those_of_the_history(unicycle, v0, accel, turn):
    found = history_rates(unicycle, *_history(v0, accel, turn))
    assert found == pytest.approx((v0, accel, turn), abs=0.06)


def test_constant_velocity_goes_straight():
    line = constant_rates(10.0, 0.0, 0.0)
    np.testing.assert_allclose(line[:, 0], np.arange(1, 65))
    assert not line[:, 1].any()


def test_constant_turn_rate_is_a_circle():
    line = constant_rates(5.0, 0.0, 0.25, waypoints=40)
    radius = 5.0 / 0.25
    np.testing.assert_allclose(np.hypot(line[:, 0], line[:, 1] - radius), radius, atol=1e-2)
    assert line[-1, 1] == pytest.approx(radius * (1 - math.cos(0.25 * 4.0)), abs=1e-2)


def test_who_brakes_stays_standing():
    line = constant_rates(4.0, -2.0, 0.0)
    assert line[-1, 0] == pytest.approx(4.0, abs=0.02)
    assert (np.diff(line[:, 0]) >= 0).all()


def test_follows_a_line():
    corner = np.array([[-10.0, 0.0], [10.0, 0.0], [10.0, 50.0]])
    dense = np.concatenate([np.linspace(a, b, 200) for a, b in pairwise(corner)])
    line = along_line(dense, 5.0, 0.0)
    np.testing.assert_allclose(line[-1], [10.0, 22.0], atol=0.3)


def test_the_fan_has_every_member():
    lines = [np.stack([np.arange(50.0), np.full(50, y)], -1) for y in (-1.0, 0.0, 1.0)]
    assert fan(8.0, 0.1, [-1.0, 0.0, 1.0, 2.0, -3.0, 0.5]).shape == (6, 64, 2)
    assert fan(8.0, 0.1, [-1.0, 0.0], lines).shape == (8, 64, 2)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import straight_history

from alpamayo_rt import Model
from alpamayo_rt.action.unicycle import Unicycle, rotation_about_z, unwrapped_yaw, yaw_of

speeds = st.floats(0, 30)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def unicycle(model_1_5: Model) -> Unicycle:
    return model_1_5.unicycle


def arc_history(speed: float, rate: float, poses: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """A turn of constant speed and rate that ends at the origin, heading along x."""
    t = torch.arange(-(poses - 1), 1, dtype=torch.float64) * 0.1
    yaw = t * rate
    if abs(rate) > 1e-6:
        x, y = speed / rate * yaw.sin(), speed / rate * (1 - yaw.cos())
    else:
        x, y = speed * t, 0 * t
    return torch.stack([x, y, 0 * t], -1).float(), rotation_about_z(yaw).float()


def naive_path(
    accel: list[float], curvature: list[float], v0: float, dt: float = 0.1
) -> list[tuple[float, float, float]]:
    """(x, y, heading) in float64, step by step."""
    x = y = heading = 0.0
    v, out = v0, []
    for a, k in zip(accel, curvature, strict=True):
        next_v = v + a * dt
        next_heading = heading + k * v * dt + k * a * dt * dt / 2
        x += dt / 2 * (v * math.cos(heading) + next_v * math.cos(next_heading))
        y += dt / 2 * (v * math.sin(heading) + next_v * math.sin(next_heading))
        v, heading = next_v, next_heading
        out.append((x, y, heading))
    return out


@given(speeds, seeds, st.floats(0, 3))
def test_integration_equals_a_naive_loop(unicycle: Unicycle, speed: float, seed: int, size: float) -> None:
    actions = torch.randn(64, 2, generator=torch.Generator().manual_seed(seed)) * size
    xyz, rot = straight_history(speed)
    xyz[:, 2] = 0.5
    ours, ours_rot = unicycle.integrate(actions, xyz, rot)
    physical = unicycle.denormalize(actions).double()
    v0 = float(unicycle.initial_speed(xyz, rot))
    path = torch.tensor(naive_path(physical[:, 0].tolist(), physical[:, 1].tolist(), v0), dtype=torch.float64)
    scale = max(float(path[:, :2].abs().max()), 1.0)
    assert (ours[:, :2].double() - path[:, :2]).abs().max() < 1e-4 * scale
    assert bool((ours[:, 2] == 0.5).all())
    assert torch.allclose(ours_rot.double(), rotation_about_z(path[:, 2]), atol=1e-4)


@settings(max_examples=8)
@given(st.integers(1, 4), seeds)
def test_candidates_are_integrated_independently(unicycle: Unicycle, candidates: int, seed: int) -> None:
    actions = torch.randn(candidates, 64, 2, generator=torch.Generator().manual_seed(seed))
    history = arc_history(8, 0.1)
    together = unicycle.integrate(actions, *history)
    for k in range(candidates):
        for ours, alone in zip(together, unicycle.integrate(actions[k], *history), strict=True):
            assert torch.allclose(ours[k], alone, atol=1e-6)


def test_starts_of_several_histories(unicycle: Unicycle) -> None:
    """Speed and height are fitted once for all candidates, and apart from the actions."""
    actions = torch.randn(2, 5, 64, 2, generator=torch.Generator().manual_seed(0))
    histories = [straight_history(4.0), arc_history(8, 0.1)]
    for number, (xyz, _) in enumerate(histories):
        xyz[:, 2] = 0.25 * number
    xyz, rot = (torch.stack(parts)[:, None] for parts in zip(*histories, strict=True))
    start = unicycle.start(xyz, rot)
    assert start.speed.shape == start.height.shape == (2, 1)
    together = unicycle.integrate_from(start, actions)
    assert [tuple(part.shape) for part in together] == [(2, 5, 64, 3), (2, 5, 64, 3, 3)]
    for number, history in enumerate(histories):
        for ours, alone in zip(together, unicycle.integrate(actions[number], *history), strict=True):
            assert torch.allclose(ours[number], alone, atol=1e-5)
    assert torch.equal(together[0][1, ..., 2], torch.full((5, 64), 0.25))


@settings(max_examples=10)
@given(st.floats(3, 25), st.floats(-0.2, 0.2), st.floats(-1.5, 1.5), st.floats(-0.02, 0.02), seeds)
def test_smooth_actions_survive_the_round_trip(
    unicycle: Unicycle, speed: float, rate: float, accel: float, curvature: float, seed: int
) -> None:
    accel = max(accel, -(speed - 1) / 6.4)  # no driving backwards
    phase = torch.linspace(0, 2, 64) + seed % 7
    physical = torch.stack([accel * phase.sin().abs(), curvature * phase.cos()], -1)
    actions = unicycle.normalize(physical)
    history = arc_history(speed, rate)
    back = unicycle.denormalize(unicycle.inverse(*history, *unicycle.integrate(actions, *history)))
    # The inverse smooths and the start of the future is tied to the history.
    assert (back - physical)[4:-4, 0].abs().max() < 0.15
    assert (back - physical)[4:-4, 1].abs().max() < 0.004


@given(speeds, st.floats(-0.6, 0.6))
def test_initial_speed_of_a_steady_turn(unicycle: Unicycle, speed: float, rate: float) -> None:
    # The trapezoid along the arc is short by (rate · dt)² / 12, the ridge by a few 1e-5.
    assert float(unicycle.initial_speed(*arc_history(speed, rate))) == pytest.approx(speed, rel=2e-3, abs=1e-4)


@given(speeds, st.floats(-3.1, 3.1), st.floats(-50, 50))
def test_initial_speed_does_not_depend_on_where_and_which_way(
    unicycle: Unicycle, speed: float, yaw: float, shift: float
) -> None:
    xyz, rot = arc_history(speed, 0.3)
    turned = rotation_about_z(torch.tensor(yaw))
    moved = unicycle.initial_speed(xyz @ turned.T + shift, turned @ rot)
    assert float(moved) == pytest.approx(float(unicycle.initial_speed(xyz, rot)), abs=2e-3)


def test_initial_speed_is_negative_in_reverse(unicycle: Unicycle) -> None:
    xyz, rot = straight_history(-2.0)
    assert float(unicycle.initial_speed(xyz, rot)) == pytest.approx(-2, abs=1e-3)


def test_initial_speed_follows_braking_to_the_last_pose(unicycle: Unicycle) -> None:
    t = torch.arange(-15, 1) * 0.1
    x = 6 * t - 1.5 * t**2  # 6 m/s now, 3 m/s² of braking
    xyz = torch.stack([x, 0 * x, 0 * x], -1)
    assert float(unicycle.initial_speed(xyz, torch.eye(3).expand(16, 3, 3))) == pytest.approx(6, abs=0.05)


def test_standstill_stays_where_it_is(unicycle: Unicycle) -> None:
    history = torch.zeros(16, 3), torch.eye(3).expand(16, 3, 3)
    assert float(unicycle.initial_speed(*history)) == 0
    rest = unicycle.normalize(torch.zeros(64, 2))
    xyz, rot = unicycle.integrate(rest, *history)
    assert xyz.abs().max() < 1e-5
    assert torch.allclose(rot, torch.eye(3).expand(64, 3, 3), atol=1e-6)
    actions = unicycle.inverse(*history, xyz, rot)
    assert bool(actions.isfinite().all())
    assert unicycle.denormalize(actions).abs().max() < 1e-4


@given(st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=40), st.floats(-3.1, 3.1))
def test_unwrapped_yaw_has_no_jumps(steps: list[float], start: float) -> None:
    yaw = start + torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
    ours = unwrapped_yaw(rotation_about_z(yaw))
    assert torch.allclose(ours, yaw, atol=1e-9)
    turns = (yaw_of(rotation_about_z(yaw)) - yaw) / (2 * math.pi)
    assert torch.allclose(turns, turns.round(), atol=1e-9)


@given(seeds)
def test_normalization_round_trip(unicycle: Unicycle, seed: int) -> None:
    actions = torch.randn(3, 64, 2, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(unicycle.normalize(unicycle.denormalize(actions)), actions, atol=1e-5)


def test_bounds_are_reported_and_never_clip(unicycle: Unicycle) -> None:
    physical = torch.tensor([[0.0, 0.0], [9.81, 0.0], [-9.81, 0.0], [0.0, 0.34], [9.7, -0.32]])
    actions = unicycle.normalize(physical)
    assert unicycle.within_bounds(actions).tolist() == [True, False, False, False, True]
    wild = unicycle.normalize(torch.tensor([20.0, 0.0]).expand(64, 2))
    xyz, _ = unicycle.integrate(wild, *straight_history(0.0))
    assert float(xyz[-1, 0]) == pytest.approx(20 * 6.4**2 / 2, rel=1e-3)


def test_history_that_is_not_finite_gives_nan_not_an_endless_loop(unicycle: Unicycle) -> None:
    xyz, rot = straight_history()
    future = unicycle.integrate(torch.zeros(2, 64, 2), xyz, rot)
    future[1][0, 3] = torch.nan
    actions = unicycle.inverse(xyz.expand(2, 16, 3), rot.expand(2, 16, 3, 3), *future)
    assert bool(actions[0].isnan().any())
    assert bool(actions[1].isfinite().all())


@given(seeds, st.floats(0, 1.5), st.floats(0.5, 8))
def test_the_later_inverse_clamps_curvature_and_stands_still_straight(
    unicycle: Unicycle, seed: int, speed: float, size: float
) -> None:
    later = Unicycle(replace(unicycle.config, still_below=0.6), unicycle.mean, unicycle.std)
    generator = torch.Generator().manual_seed(seed)
    actions = (torch.randn(64, 2, generator=generator) * torch.tensor([0.2, size])).cumsum(0)
    history = straight_history(speed)
    future = unicycle.integrate(actions, *history)
    before, after = (u.denormalize(u.inverse(*history, *future)) for u in (unicycle, later))
    low, high = unicycle.config.curvature_bounds
    assert torch.equal(after[:, 0], before[:, 0])  # accelerations are never touched
    zeroed = after[:, 1].abs() < 1e-7
    torch.testing.assert_close(after[~zeroed, 1], before[~zeroed, 1].clamp(low, high), rtol=0, atol=1e-6)
    if not bool(zeroed.any()):
        return
    # Speeds as the inverse has them follow from its own accelerations but for their smoothing.
    v0 = float(unicycle.initial_speed(*history))
    speeds = torch.cat([torch.tensor([v0]), v0 + (before[:, 0] * 0.1).cumsum(0)])
    slower = torch.minimum(speeds[:-1].abs(), speeds[1:].abs())
    assert float(slower[zeroed].max()) < 0.6 + 0.5


def test_the_later_inverse_by_hand(unicycle: Unicycle) -> None:
    later = Unicycle(replace(unicycle.config, still_below=0.6), unicycle.mean, unicycle.std)
    for speed, turns in ((0.55, False), (0.65, True)):
        t = torch.arange(1, 65) * 0.1
        yaw = 0.05 * speed * t
        future = torch.stack([yaw.sin() / 0.05, (1 - yaw.cos()) / 0.05, 0 * t], -1), rotation_about_z(yaw)
        history = straight_history(speed)
        curvature = later.denormalize(later.inverse(*history, *future))[:, 1]
        assert bool((curvature.abs() > 0.01).all()) is turns
        assert bool((curvature.abs() < 1e-7).all()) is not turns

# SPDX-License-Identifier: Apache-2.0
"""Accelerations and jerk of motions whose derivatives are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.evaluation.comfort import LIMITS, derivative, motion

T = 0.1 * np.arange(1, 65)


def straight(distance, heading=0.0):
    xy = np.stack([distance * np.cos(heading), distance * np.sin(heading)], -1)
    return xy[None], np.full((1, len(distance)), heading)


@given(st.floats(0, 30), st.floats(-4, 4))
def test_constant_acceleration(speed, accel):
    felt = motion(*straight(speed * T + accel * T**2 / 2))
    assert felt.accelerating[0] == pytest.approx(accel, abs=1e-6)
    assert felt.braking[0] == pytest.approx(accel, abs=1e-6)
    assert felt.jerk[0] == pytest.approx(0, abs=1e-4)
    assert bool(felt.comfortable()[0]) == (LIMITS.braking <= accel <= LIMITS.accelerating)


@given(st.floats(1, 25), st.floats(0.005, 0.3))
def test_a_circle(speed, curvature):
    rate = speed * curvature
    xy = np.stack([np.sin(rate * T), 1 - np.cos(rate * T)], -1)[None] / curvature
    felt = motion(xy, (rate * T)[None])
    assert felt.yaw_rate[0] == pytest.approx(rate, rel=1e-6)
    # A quadratic over 0.8 s flattens what bends within it.
    assert felt.lateral[0] == pytest.approx(speed**2 * curvature, rel=0.02 + 0.4 * min(rate, 3) ** 2)
    assert felt.yaw_acceleration[0] == pytest.approx(0, abs=1e-5)


def test_constant_jerk():
    felt = motion(*straight(20 * T + 3 * T**3 / 6))
    assert felt.longitudinal_jerk[0] == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_of_a_quadratic_are_exact_up_to_the_ends(order):
    values = 3 - 2 * T + 5 * T**2
    expected = 10 * T - 2 if order == 1 else np.full_like(T, 10)
    np.testing.assert_allclose(derivative(values, 0.1, order), expected, atol=1e-8)


def test_a_heading_that_jumps_by_a_full_turn_is_no_turn():
    xy, heading = straight(10 * T, heading=0.0)
    heading[:, 30:] += 2 * np.pi
    assert motion(xy, heading).yaw_rate[0] == pytest.approx(0, abs=1e-9)


def test_rounding_to_the_millimetre_is_not_felt():
    rng = np.random.default_rng(0)
    xy, heading = straight(12 * T)
    felt = motion(xy + rng.uniform(-5e-4, 5e-4, xy.shape), heading)
    assert felt.comfortable()[0]
    assert felt.longitudinal_jerk[0] < 0.5

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.action.flow_matching import draw_noise, flow_times, guided, integrate

steps = st.integers(1, 40)
CPU = torch.device("cpu")


@given(steps)
def test_times_run_from_zero_to_one(n: int) -> None:
    times = flow_times(n, CPU)
    assert times.dtype == torch.float32
    assert times.tolist() == pytest.approx([i / n for i in range(n + 1)], abs=1e-6)


@given(steps)
def test_constant_field_is_integrated_exactly(n: int) -> None:
    noise = draw_noise(2, 3, 0)
    field = torch.tensor([1.5, -2.0])
    assert torch.allclose(integrate(noise, lambda x, t: field.expand_as(x), n), noise + field, atol=1e-5)


@given(steps)
def test_field_linear_in_time_gives_the_left_sum(n: int) -> None:
    noise = draw_noise(2, 3, 0)
    out = integrate(noise, lambda x, t: t.expand_as(x), n)
    assert torch.allclose(out, noise + (n - 1) / (2 * n), atol=1e-5)


@given(steps, st.floats(-2, 2))
def test_field_linear_in_x_grows_by_the_same_factor_each_step(n: int, rate: float) -> None:
    noise = draw_noise(2, 3, 0)
    expected = noise.double() * (1 + rate / n) ** n
    out = integrate(noise, lambda x, t: rate * x, n)
    assert torch.allclose(out.double(), expected, rtol=1e-4, atol=1e-5)


def test_field_sees_every_start_of_a_step_once_and_never_one() -> None:
    seen: list[float] = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(float(t))
        return x

    noise = draw_noise(1, 2, 0)
    before = noise.clone()
    integrate(noise, field, 4)
    assert seen == [0, 0.25, 0.5, 0.75]
    assert torch.equal(noise, before)


def test_guidance_of_weight_one_is_the_guided_field_and_of_zero_the_other() -> None:
    without, with_navigation = draw_noise(2, 3, 0), draw_noise(2, 3, 1)
    assert torch.equal(guided(without, with_navigation, 1.0), with_navigation)
    assert torch.equal(guided(without, with_navigation, 0.0), without)
    beyond = guided(without, with_navigation, 3.0)
    assert torch.allclose(beyond, with_navigation + 2 * (with_navigation - without), atol=1e-5)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 2**63 - 1))
def test_noise_of_fewer_candidates_is_a_prefix(few: int, more: int, seed: int) -> None:
    assert torch.equal(draw_noise(few + more, 64, seed)[:few], draw_noise(few, 64, seed))


def test_noise_is_standard_normal_and_differs_by_seed_and_candidate() -> None:
    noise = draw_noise(400, 64, 5)
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02
    assert len({round(float(row[0, 0]), 6) for row in noise}) > 390
    assert not torch.equal(noise[:1], draw_noise(1, 64, 6))

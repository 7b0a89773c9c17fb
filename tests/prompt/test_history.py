# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.config import HistoryTokensConfig
from alpamayo_rt.prompt.history import history_bins

CONFIG = HistoryTokensConfig(5000, 1000, (-4, -4, -10), (4, 4, 10), 48)


def one_step(x: float, y: float = 0.0, z: float = 0.0) -> list[int]:
    return history_bins(torch.tensor([[x, y, z]]), CONFIG).tolist()


def test_standstill_is_the_middle_rounded_to_even() -> None:
    # 0.5 · 999 = 499.5
    assert history_bins(torch.zeros(16, 3), CONFIG).tolist() == [500] * 48


@pytest.mark.parametrize(
    ("step", "bins"),
    [
        ((-4.0, -4.0, -10.0), [0, 0, 0]),
        ((4.0, 4.0, 10.0), [999, 999, 999]),
        ((-4.1, 40.0, -1e6), [0, 999, 0]),
        ((1e30, -1e30, 11.0), [999, 0, 999]),
    ],
)
def test_steps_outside_the_range_are_clamped(step: tuple[float, float, float], bins: list[int]) -> None:
    assert one_step(*step) == bins


@given(st.integers(0, 999))
def test_the_centre_of_a_bin_gives_that_bin(index: int) -> None:
    at = float(Fraction(index, 999))
    assert one_step(8 * at - 4, 8 * at - 4, 20 * at - 10) == [index] * 3


@given(st.floats(-4, 4, width=32), st.floats(-4, 4, width=32))
def test_bins_are_monotonic(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert one_step(low)[0] <= one_step(high)[0]


@given(st.lists(st.integers(-40, 40), min_size=48, max_size=48))
def test_first_step_is_from_the_origin_and_axes_lie_together(steps: list[int]) -> None:
    delta = torch.tensor(steps, dtype=torch.float32).reshape(16, 3) / 16
    ours = history_bins(delta.cumsum(0), CONFIG)
    alone = torch.cat([history_bins(row[None], CONFIG) for row in delta])
    assert torch.equal(ours, alone)
    assert ours.shape == (48,)

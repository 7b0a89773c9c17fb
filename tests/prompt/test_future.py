# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.config import FutureTokensConfig
from alpamayo_rt.prompt.future import future_bins

CONFIG = FutureTokensConfig(1434, 3000, (-10, -10), (10, 10), 128)
WIDTH = 20 / 2999
values = st.floats(-1e6, 1e6, width=32)


def bins(*actions: float) -> list[int]:
    return future_bins(torch.tensor([actions]), CONFIG).tolist()


@given(values, values)
def test_a_bin_is_the_nearest_within_the_range(a: float, b: float) -> None:
    for value, found in zip((a, b), bins(a, b), strict=True):
        nearest = min(max(value, -10), 10)
        assert 0 <= found <= 2999
        assert -10 + found * WIDTH == pytest.approx(nearest, abs=WIDTH / 2 + 1e-5)


def test_acceleration_and_curvature_of_each_waypoint_together() -> None:
    assert bins(-10.0, 10.0) == [0, 2999]
    two = torch.tensor([[[-10.0, 10.0], [10.0, -10.0]]])
    assert future_bins(two, CONFIG).tolist() == [[0, 2999, 2999, 0]]

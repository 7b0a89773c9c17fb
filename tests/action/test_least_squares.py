# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.action.least_squares import difference_gram, fix_first, solve

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(4, 12), st.integers(1, 3), seeds)
def test_gram_measures_the_differences(n: int, order: int, seed: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(x @ difference_gram(n, order, x) @ x) == pytest.approx(float(x.diff(order).square().sum()))


def problem(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n + 2, n, generator=generator, dtype=torch.float64)
    return a, torch.randn(n + 2, generator=generator, dtype=torch.float64)


@given(st.integers(2, 8), st.floats(1e-3, 10), seeds)
def test_solution_is_a_minimum(n: int, ridge: float, seed: int) -> None:
    a, b = problem(n, seed)
    x = solve(a.T @ a, a.T @ b, ridge)

    def cost(x: torch.Tensor) -> float:
        return float((a @ x - b).square().sum() + ridge * x.square().sum())

    for direction in torch.eye(n, dtype=torch.float64):
        assert cost(x) <= min(cost(x + 1e-3 * direction), cost(x - 1e-3 * direction))


@given(st.integers(2, 8), st.floats(-3, 3), seeds)
def test_fixed_first_value_leaves_the_minimum_over_the_others(n: int, first: float, seed: int) -> None:
    a, b = problem(n, seed)
    rest = solve(*fix_first(a.T @ a, a.T @ b, torch.tensor(first, dtype=torch.float64)), 0.0)
    expected = torch.linalg.lstsq(a[:, 1:], (b - a[:, 0] * first)[:, None]).solution[:, 0]
    assert torch.allclose(rest, expected, atol=1e-6)


def test_singular_system_is_an_error_or_gets_a_larger_ridge() -> None:
    gram, rhs = torch.tensor([[1.0, 3.0], [3.0, 1.0]]), torch.ones(2)
    with pytest.raises(torch.linalg.LinAlgError):
        solve(gram, rhs, 1e-4)
    raised = solve(gram, rhs, 1e-4, raise_ridge=True)
    # The first of 1e-4, 1e-3, … with which the matrix is positive definite is 10.
    assert torch.allclose(raised, torch.linalg.solve(gram + 10 * torch.eye(2), rhs))

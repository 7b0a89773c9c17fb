# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt import Model
from alpamayo_rt.model.rotary import mrope_cos_sin, rotate

TINY, RELEASED = (32, (6, 5, 5)), (128, (24, 20, 20))
positions = st.tuples(*[st.integers(0, 4000)] * 3)


def naive_angle(position: tuple[int, int, int], j: int, dim: int, theta: float, section: tuple) -> float:
    """The angle at index j of dim/2, read off the formula."""
    if j % 3 == 1 and j < 3 * section[1]:
        component = 1
    elif j % 3 == 2 and j < 3 * section[2]:
        component = 2
    else:
        component = 0
    return position[component] * theta ** (-2 * j / dim)


@pytest.mark.parametrize("shape", [TINY, RELEASED])
@given(position=positions)
def test_mrope_equals_the_formula_index_by_index(
    shape: tuple[int, tuple[int, int, int]], position: tuple[int, int, int], model_1_5: Model
) -> None:
    dim, section = shape
    config = replace(model_1_5.config.language, head_dim=dim, mrope_section=section)
    cos, sin = mrope_cos_sin(torch.tensor(position)[:, None], config)
    angles = [naive_angle(position, j % (dim // 2), dim, config.rope_theta, section) for j in range(dim)]
    # Angles are float32: at position 4000 that is 2e-4 rad.
    near = {"abs": 4000 * 2**-22}
    assert cos[0].tolist() == pytest.approx([math.cos(a) for a in angles], **near)
    assert sin[0].tolist() == pytest.approx([math.sin(a) for a in angles], **near)


def test_released_sections_take_20_height_and_20_width_angles(model_1_5: Model) -> None:
    config = replace(model_1_5.config.language, head_dim=128, mrope_section=(24, 20, 20))
    turned = [mrope_cos_sin(torch.eye(3, dtype=torch.long)[:, [axis]], config)[1][0, :64] for axis in range(3)]
    assert [int((sin != 0).sum()) for sin in turned] == [24, 20, 20]
    assert bool((sum((sin != 0).int() for sin in turned) == 1).all())


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_products_depend_on_the_distance_alone(a: int, b: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(a * 501 + b)
    q, k = torch.randn(2, 1, 16, generator=generator, dtype=torch.float64)

    def product(at_q: int, at_k: int) -> float:
        frequencies = 10_000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)

        def turned(x: torch.Tensor, at: int) -> torch.Tensor:
            angles = (at * frequencies).repeat(2)
            return rotate(x, angles.cos(), angles.sin())

        return float((turned(q, at_q) * turned(k, at_k)).sum())

    assert product(a, b) == pytest.approx(product(a + shift, b + shift), abs=1e-4)


def test_rotate_turns_halves_and_keeps_the_type() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.bfloat16)
    quarter = rotate(x, torch.zeros(1, 4), torch.ones(1, 4))
    assert quarter.tolist() == [[-3, -4, 1, 2]]
    assert quarter.dtype == torch.bfloat16

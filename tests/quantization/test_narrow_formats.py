# SPDX-License-Identifier: Apache-2.0
"""e4m3 and int4 stay within half a step of the numbers they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.quantization.formats import (
    E4M3_MAX,
    GROUP,
    from_e4m3,
    from_int4,
    groups_of,
    to_e4m3,
    to_int4,
    weight_to_e4m3,
)

SIZES = st.tuples(st.integers(1, 9), st.sampled_from([1, 2, 7, 127, 128, 129, 255, 300]))


def matrix(size: tuple[int, int], seed: int, spread: float) -> torch.Tensor:
    """Rows of very different sizes, with outliers."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator) * torch.exp(spread * torch.randn(size, generator=generator))
    return values * torch.logspace(-6, 3, size[0])[:, None]


@given(size=SIZES, seed=st.integers(0, 999), spread=st.sampled_from([0.0, 1.0, 4.0]))
def test_e4m3_is_within_half_a_step(size: tuple[int, int], seed: int, spread: float) -> None:
    x = matrix(size, seed, spread)
    rounded = weight_to_e4m3(x)
    assert rounded.values.dtype == torch.float8_e4m3fn
    assert rounded.scale.shape == (size[0], 1)
    error = (from_e4m3(rounded).double() - x.double()).abs()
    bound = torch.maximum(x.abs().double() / 16, rounded.scale.double() / 1024)
    assert bool((error <= bound * (1 + 1e-6)).all())
    again = to_e4m3(from_e4m3(rounded))
    assert torch.allclose(from_e4m3(again), from_e4m3(rounded), rtol=1e-6, atol=0)


@given(size=SIZES, seed=st.integers(0, 999), spread=st.sampled_from([0.0, 1.0, 4.0]), shift=st.floats(-3, 3))
def test_int4_is_within_half_a_step(size: tuple[int, int], seed: int, spread: float, shift: float) -> None:
    x = matrix(size, seed, spread)
    x = x + shift * x.abs().amax(1, keepdim=True)
    packed = to_int4(x)
    groups = groups_of(size[1])
    assert packed.packed.shape == (size[0], (size[1] + 1) // 2)
    assert packed.scale.shape == packed.zero.shape == (size[0], groups)
    error = (from_int4(packed, size[1]).double() - x.double()).abs()
    step = packed.scale.double().repeat_interleave(GROUP, 1)[:, : size[1]]
    assert bool((error <= step / 2 * (1 + 1e-5)).all())


def test_zeros_and_extremes_come_back() -> None:
    zeros = torch.zeros(3, 130)
    assert torch.equal(from_e4m3(to_e4m3(zeros)), zeros)
    assert torch.equal(from_int4(to_int4(zeros), 130), zeros)
    codes = torch.arange(16.0).repeat(1, 8) - 5
    assert torch.equal(from_int4(to_int4(codes), 128), codes)
    powers = 2.0 ** torch.arange(-6, 9)[None]
    assert torch.equal(from_e4m3(to_e4m3(powers, torch.tensor(1.0))), powers)


def test_the_even_input_is_in_the_low_bits() -> None:
    packed = to_int4(torch.tensor([[0.0, 15.0, 3.0]]))
    assert packed.packed.tolist() == [[0xF0, 0x03]]


def test_a_fixed_scale_saturates() -> None:
    x = torch.tensor([[1000.0, -1000.0, 2.0]])
    restored = from_e4m3(to_e4m3(x, torch.tensor(1.0)))
    assert restored.tolist() == [[E4M3_MAX, -E4M3_MAX, 2.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_row_does_not_depend_on_those_beside_it(dtype: torch.dtype) -> None:
    weight = matrix((4100, 5), 3, 1.0).to(dtype)
    whole, part = weight_to_e4m3(weight), weight_to_e4m3(weight[4090:])
    assert torch.equal(whole.values[4090:].float(), part.values.float())
    assert torch.equal(to_int4(weight).packed[4090:], to_int4(weight[4090:]).packed)

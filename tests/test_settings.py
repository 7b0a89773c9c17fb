# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import inspect
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alpamayo_rt import InputError, Model
from alpamayo_rt.engine.sampling import Sampling
from alpamayo_rt.settings import SETTING_NAMES, Settings

WHOLE = {
    "num_candidates": (1, 1024),
    "num_diffusion_steps": (1, 10_000),
    "max_generate_length": (1, 16_384),
    "seed": (0, 2**63 - 1),
    "top_k": (1, 2**31 - 1),
}
NUMBERS = {"temperature": (0, 100), "top_p": (0, 1), "guidance_weight": (-1000, 1000)}
OPTIONAL = ("top_k", "guidance_weight", "max_generate_length")
odd_values = st.one_of(st.text(max_size=4), st.lists(st.integers(), max_size=2), st.booleans())


@given(st.sampled_from(sorted(WHOLE)), st.integers(-(2**70), 2**70))
def test_whole_numbers_pass_exactly_within_their_range(name: str, value: int) -> None:
    low, high = WHOLE[name]
    if low <= value <= high:
        assert getattr(Settings(**{name: value}), name) == value
    else:
        with pytest.raises(
            InputError, match=rf"^{name}: {value}, expected a whole number from {low} to {high}$"
        ):
            Settings(**{name: value})


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_ends_of_whole_ranges(name: str) -> None:
    low, high = WHOLE[name]
    for value in (low, high):
        assert getattr(Settings(**{name: value}), name) == value
    for value in (low - 1, high + 1, float(low), str(low)):
        with pytest.raises(InputError, match=f"^{name}: "):
            Settings(**{name: value})


@given(st.sampled_from(sorted(NUMBERS)), st.floats() | st.integers(-(10**400), 10**400))
@example("temperature", 10**400)
@example("guidance_weight", math.nan)
@example("top_p", math.inf)
def test_numbers_pass_exactly_within_their_range(name: str, value: float) -> None:
    low, high = NUMBERS[name]
    if low <= value <= high:
        assert getattr(Settings(**{name: value}), name) == value
    else:
        with pytest.raises(InputError, match=rf"^{name}: .*, expected a number from {low} to {high}$"):
            Settings(**{name: value})


@given(st.sampled_from(sorted(WHOLE | NUMBERS)), odd_values)
def test_other_kinds_of_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        Settings(**{name: value})


@pytest.mark.parametrize("name", sorted(WHOLE | NUMBERS))
def test_none_means_off_where_there_is_an_off(name: str) -> None:
    if name in OPTIONAL:
        assert getattr(Settings(**{name: None}), name) is None
    else:
        with pytest.raises(InputError, match=f"^{name}: None"):
            Settings(**{name: None})


@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_multi_seq_is_true_or_false(value: object) -> None:
    with pytest.raises(InputError, match=r"^multi_seq: "):
        Settings(multi_seq=value)  # type: ignore[arg-type]


def test_names_and_defaults_are_those_of_infer() -> None:
    parameters = inspect.signature(Model.infer).parameters
    others = {"self", "sample", "noise", "keep_trace", "on_token", "frame_ids"}
    assert set(SETTING_NAMES) == set(parameters) - others
    assert all(parameters[name].default == getattr(Settings(), name) for name in SETTING_NAMES)


@given(st.floats(0, 100), st.floats(0, 1), st.none() | st.integers(1, 100))
def test_greedy_is_temperature_zero_top_k_one_or_top_p_zero(
    temperature: float, top_p: float, top_k: int | None
) -> None:
    sampling = Sampling(temperature, top_p, top_k)
    assert sampling.greedy == (temperature == 0 or top_p == 0 or top_k == 1)

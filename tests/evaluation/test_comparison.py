# SPDX-License-Identifier: Apache-2.0
"""Verdicts: what is planted is found, what is the same is equivalent, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.evaluation.comparison import compare_metric, judge
from alpamayo_rt.evaluation.intervals import mean_intervals, ratio_interval, resampled_counts, student


def errors(clips, seed):
    """Heavy-tailed, as displacement errors are."""
    return np.random.default_rng(seed).lognormal(-1.0, 1.0, clips)


@given(st.integers(2, 400), st.integers(0, 10_000))
def test_a_run_is_equivalent_to_itself(clips, seed):
    values = errors(clips, seed)
    assert compare_metric("min_ade_6", values, values.copy()).verdict == "equivalent"


@given(st.integers(20, 400), st.integers(0, 10_000), st.floats(0.03, 0.5))
def test_a_planted_degradation_is_never_equivalent(clips, seed, degradation):
    before = errors(clips, seed)
    exact = compare_metric("min_ade_6", before, before * (1 + degradation))
    assert exact.verdict == "worse"
    assert exact.regression == pytest.approx(degradation)


@pytest.mark.parametrize("clips", [50, 800])
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5, 1.0])
def test_nor_is_one_that_hides_in_noise(clips, noise):
    """3 % on the mean, each clip moved at random as well, as by another token: many draws, none equivalent."""
    verdicts = []
    for seed in range(25):
        rng = np.random.default_rng([seed, clips])
        before = errors(clips, seed)
        moved = before * np.exp(noise * rng.standard_normal(clips) - noise**2 / 2)
        # The population's degradation is 3 %; what the sample shows of it varies.
        verdicts.append(compare_metric("min_ade_6", before, moved * 1.03).verdict)
    assert "equivalent" not in verdicts


def test_one_that_is_concentrated_in_few_clips_is_not_equivalent_either():
    for seed in range(25):
        before = errors(300, seed)
        after = before.copy()
        after[np.random.default_rng(seed).choice(300, 6, replace=False)] += 0.03 * before.sum() / 6
        assert compare_metric("min_ade_6", before, after).verdict != "equivalent"


def test_small_symmetric_noise_is_equivalent():
    rng = np.random.default_rng(10)
    before = errors(300, 1)
    assert (
        compare_metric("min_ade_6", before, before * np.exp(0.02 * rng.standard_normal(300))).verdict
        == "equivalent"
    )


def test_undecided_tells_how_many_clips_would_decide_and_they_do():
    rng = np.random.default_rng(20)

    def compared(clips):
        before = errors(clips, 3)
        return compare_metric("min_ade_6", before, before * np.exp(0.15 * rng.standard_normal(clips) - 0.01125))

    first = compared(100)
    assert first.verdict == "undecided"
    assert first.clips_to_decide > 100
    decided = [compared(2 * first.clips_to_decide).verdict for _ in range(5)]
    assert decided.count("equivalent") >= 3


def test_better_where_more_is_better():
    before, after = np.zeros(200), np.zeros(200)
    after[:100] = 1.0
    assert compare_metric("cause_right", before, after).verdict == "better"
    assert compare_metric("miss_rate_6", before, after).verdict == "worse"
    assert compare_metric("diversity", before + 1, after + 1).verdict == "different"
    assert not compare_metric("cause_right", before, after).relative


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.01, "equivalent"), (0.001, 0.019, "equivalent"), (0.001, 0.03, "worse"),
        (-0.05, -0.001, "better"),
        (-0.03, 0.01, "undecided"), (-float("inf"), float("inf"), "undecided"),
    ],
)  # fmt: skip
def test_judging_an_interval(low, high, verdict):
    assert judge(low, high, 0.02, -1) == verdict


def test_a_single_clip_decides_nothing():
    change = compare_metric("min_ade_6", np.array([1.0]), np.array([1.1]))
    assert change.verdict == "undecided"
    assert change.clips_to_decide is None


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (10, 2.22814), (299, 1.96793)]
)
def test_quantiles_of_student(freedom, expected):
    assert student(freedom, 0.95) == pytest.approx(expected, rel=2e-3)


def test_intervals_cover_the_mean_as_often_as_they_say():
    """Of the mean of a skewed distribution, over many samples; the bootstrap falls a little short."""
    inside, ratio_inside, runs = 0, 0, 200
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        sample = rng.exponential(1.0, 100)
        low, high = mean_intervals(sample[:, None], resamples=500, seed=seed)[0]
        inside += low <= 1.0 <= high
        low, high = ratio_interval(sample, sample * rng.normal(1.1, 0.3, 100), resamples=500)
        ratio_inside += low <= 0.1 <= high
    assert 0.90 <= inside / runs <= 0.99
    assert ratio_inside / runs >= 0.92


def test_the_same_records_give_the_same_interval_and_missing_values_are_left_out():
    values = np.stack([errors(50, 0), errors(50, 1)], -1)
    np.testing.assert_array_equal(mean_intervals(values), mean_intervals(values))
    holes = values.copy()
    holes[::2, 1] = np.nan
    alone = mean_intervals(values[1::2, 1:])
    assert np.abs(mean_intervals(holes)[1] - alone[0]).max() < 0.1
    assert np.isnan(mean_intervals(np.full((5, 1), np.nan))).all()
    assert sum(len(part) for part in resampled_counts(3000, 1000)) == 1000

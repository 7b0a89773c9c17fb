# SPDX-License-Identifier: Apache-2.0
"""All metrics of a clip, against a computation of their definitions point by point in plain Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from situations import GOLDEN

from alpamayo_rt.evaluation.clip_metrics import (
    HIGHER,
    LOWER,
    NEITHER,
    better,
    clip_metrics,
    is_share,
    label_of,
    off_bounds,
)
from alpamayo_rt.evaluation.metrics import VEHICLE, diversity, heading_error, min_ade

METRES = st.floats(-80, 80, width=32)
ANGLES = st.floats(-3, 3, width=32)


@st.composite
def situations(draw):
    k = draw(st.integers(1, 7))
    candidates = draw(arrays(np.float64, (k, 64, 2), elements=METRES, fill=METRES))
    headings = draw(arrays(np.float64, (k, 64), elements=ANGLES, fill=ANGLES))
    truth = draw(arrays(np.float64, (64, 2), elements=METRES, fill=METRES))
    return candidates, headings, truth, draw(arrays(np.float64, 64, elements=ANGLES, fill=ANGLES))


def by_hand(candidates, headings, truth, true_heading, counts=(1, 6)):
    """The definitions, one number after the other."""
    k, out = len(candidates), {}
    distance = [[math.dist(p, q) for p, q in zip(c, truth, strict=True)] for c in candidates.tolist()]
    ade = [sum(row) / 64 for row in distance]
    out["ade_best"], out["ade_mean"], out["ade_first"] = min(ade), sum(ade) / k, ade[0]

    def corner_points(x, y, h):
        rear, front, width = VEHICLE
        return [(x + math.cos(h) * a - math.sin(h) * b, y + math.sin(h) * a + math.cos(h) * b)
                for a in (rear, front) for b in (-width / 2, width / 2)]  # fmt: skip

    corner = []
    for c, hs in zip(candidates, headings, strict=True):
        total = 0.0
        for (x, y), h, (tx, ty), th in zip(c, hs, truth, true_heading, strict=True):
            pairs = zip(corner_points(x, y, h), corner_points(tx, ty, th), strict=True)
            total += sum(math.dist(p, q) for p, q in pairs) / 4
        corner.append(total / 64)
    for n in counts:
        if n > k:
            continue
        for seconds, points in ((0.5, 5), (1, 10), (3, 30), (5, 50), (6.4, 64)):
            out[f"min_ade_{n}_at_{seconds:g}s"] = min(sum(row[:points]) / points for row in distance[:n])
        out[f"min_ade_{n}"] = min(ade[:n])
        out[f"min_fde_{n}"] = min(row[-1] for row in distance[:n])
        out[f"miss_rate_{n}"] = float(out[f"min_fde_{n}"] > 2.0)
        out[f"corner_distance_{n}"] = min(corner[:n])
    best = ade.index(min(ade))
    turned = []
    for h, t in zip(headings[best], true_heading, strict=True):
        apart = abs(h - t) % (2 * math.pi)
        turned.append(math.degrees(min(apart, 2 * math.pi - apart)))
    out["heading_error_deg"] = sum(turned) / 64
    pairs = list(itertools.combinations(candidates.tolist(), 2))
    apart = [math.dist(p, q) for a, b in pairs for p, q in zip(a, b, strict=True)]
    out["diversity"] = sum(apart) / len(apart) if apart else 0.0
    return out


@given(situations())
def test_every_metric_equals_its_definition(situation):
    found, expected = clip_metrics(*situation), by_hand(*situation)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=2e-6), name
    felt = {name for name in found if name.startswith("peak_")} | {"comfortable"}
    assert found.keys() == expected.keys() | felt


@given(situations(), st.floats(0.1, 3), st.floats(-30, 30), st.floats(-3, 3))
def test_errors_do_not_depend_on_where_the_frame_lies(situation, scale, shift, turn):
    candidates, headings, truth, true_heading = situation
    c, s = math.cos(turn), math.sin(turn)
    rotation = np.array([[c, s], [-s, c]])
    moved = clip_metrics(
        candidates @ rotation + shift, headings + turn, truth @ rotation + shift, true_heading + turn
    )
    plain = clip_metrics(*situation)
    for name in ("ade_best", "ade_mean", "min_fde_1", "corner_distance_1", "heading_error_deg", "diversity"):
        assert moved[name] == pytest.approx(plain[name], abs=1e-5)
    larger = min_ade(candidates * scale, truth * scale)
    assert larger == pytest.approx(scale * min_ade(candidates, truth), rel=1e-9)


@given(situations())
def test_more_candidates_are_never_worse_and_order_does_not_matter(situation):
    candidates, headings, truth, true_heading = situation
    k = len(candidates)
    found = clip_metrics(candidates, headings, truth, true_heading, counts=range(1, k + 1))
    errors = [found[f"min_ade_{n}"] for n in range(1, k + 1)]
    assert errors == sorted(errors, reverse=True)
    assert found[f"min_ade_{k}"] == found["ade_best"] <= found["ade_mean"]
    turned = clip_metrics(candidates[::-1], headings[::-1], truth, true_heading)
    assert turned["ade_best"] == found["ade_best"]
    assert turned["diversity"] == pytest.approx(found["diversity"], abs=2e-6)


def test_the_truth_itself_has_no_error():
    truth = np.cumsum(np.full((64, 2), 0.5), 0)
    heading = np.full(64, np.pi / 4)
    found = clip_metrics(np.stack([truth] * 6), np.stack([heading] * 6), truth, heading)
    assert [found[n] for n in ("min_ade_6", "min_fde_6", "miss_rate_6", "corner_distance_6", "diversity")] == [
        0
    ] * 5


def test_a_turn_of_a_full_circle_is_no_error():
    assert heading_error(np.full((1, 64), np.pi - 0.01), np.full(64, -np.pi + 0.01))[0] == pytest.approx(
        1.1459, abs=1e-3
    )
    assert diversity(np.zeros((1, 64, 2))) == 0.0


def test_recorded_arrays_of_the_reference(golden):
    """minADE as the published comparison defines it, on trajectories that the public reference made."""
    seen = 0
    for path in sorted(golden.rglob("*.npz")):
        with np.load(path) as case:
            if "pred_xyz" not in case:
                continue
            proposed = np.asarray(case["pred_xyz"], np.float64)
        proposed = proposed.reshape(-1, *proposed.shape[-2:])
        # The driven one: a candidate of the case, bent, so that the errors are those of real trajectories.
        truth = proposed[-1] * np.array([1.1, 0.9, 1.0]) + np.linspace(0, 2, proposed.shape[1])[:, None]
        xy = np.linalg.norm(proposed[..., :2] - truth[None, :, :2], axis=-1)
        expected = xy.mean(axis=1).min()
        heading = np.zeros(proposed.shape[:2])
        found = clip_metrics(proposed, heading, truth, heading[0], counts=(len(proposed),))
        assert found[f"min_ade_{len(proposed)}"] == pytest.approx(expected, abs=1e-6), path.name
        assert min_ade(proposed, truth) == pytest.approx(expected, rel=1e-12)
        seen += 1
    assert seen >= 5, f"no trajectories in {GOLDEN}"


def test_which_way_is_better():
    assert better("min_ade_6") == better("miss_rate_6") == better("off_bounds") == LOWER
    assert better("comfortable") == better("cause_right") == HIGHER
    assert better("diversity") == better("reasoning_tokens") == better("peak_jerk") == NEITHER
    assert is_share("miss_rate_1")
    assert not is_share("min_ade_1")


def test_names_that_people_use():
    assert label_of("min_ade_6") == ("minADE6", "m")
    assert label_of("min_ade_1_at_0.5s") == ("minADE1 over 0.5 s", "m")
    assert label_of("miss_rate_16") == ("misses at 2 m, best of 16", "")


def test_off_bounds_counts_actions():
    actions = np.zeros((2, 64, 2))
    actions[0, 0, 0], actions[1, 5, 1] = -9.9, 0.34
    assert off_bounds(actions, (-9.8, 9.8), (-0.33, 0.33)) == pytest.approx(2 / 128)

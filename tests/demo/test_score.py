# SPDX-License-Identifier: Apache-2.0
"""The scorer's table, and its run from end to end on a model that knows nothing."""

from __future__ import annotations

import json
import math

import pytest
import torch

from alpamayo_rt.cli.main import main
from alpamayo_rt.config import parse_model_config, read_json
from alpamayo_rt.demo.score import acceleration_quantiles
from alpamayo_rt.demo.score_table import summarize
from alpamayo_rt.model.network import Network
from alpamayo_rt.training.nano_config import BACKBONE, write_skeleton
from alpamayo_rt.training.train import STATISTICS
from alpamayo_rt.training.weights import initialize, save_checkpoint


def _clip(**changes):
    clip = {
        "index": 0, "cause": "red_light", "named": "red_light", "black_named": None,
        "ade": [1.0, 2.0, 2.0, 2.0, 2.0, 3.0], "black_ade": [4.0], "frozen_ade": [4.0], "shuffled_ade": [4.0],
        "steady_ade": [2.0],
        "constant_velocity": 5.0, "constant_turn_rate": 4.0, "fan_ade": [2.0, 3.0],
    }  # fmt: skip
    return clip | changes


def _row(rows, name, n=0):
    return [row for row in rows if row.name == name][n]


def test_values_and_bounds():
    rows = summarize([_clip(), _clip(cause="curve", named="turn", ade=[2.0] * 6)])
    assert _row(rows, "minADE6, m").value == 1.5
    assert _row(rows, "minADE6, m").at_most == pytest.approx(2.0)
    assert _row(rows, "minADE6, m", 1).at_most == pytest.approx(1.4)
    assert _row(rows, "minADE6, m").passed is True
    assert _row(rows, "minADE6, m", 1).passed is False
    assert _row(rows, "ADE of the first candidate, m").value == 1.5
    assert _row(rows, "reasoning names the cause").value == 0.5
    assert _row(rows, "… red_light").value == 1.0
    assert _row(rows, "… curve").passed is False
    assert _row(rows, "fan, minADE, m").passed is None
    assert _row(rows, "minADE6 on black images, m").passed is True


def test_navigation_needs_five_of_six():
    follows = {"branch": "left", "swapped_branch": "right"}
    five, four = ["left"] * 5 + [None], ["left"] * 4 + ["right"] * 2
    rows = summarize([
        _clip(**follows, branches=five, swapped_branches=["right"] * 6),
        _clip(**follows, branches=four, swapped_branches=["left"] * 6),
    ])  # fmt: skip
    assert _row(rows, "follows the navigation").value == 0.5
    assert _row(rows, "follows swapped navigation").value == 0.5
    assert _row(rows, "follows the navigation").clips == 2


@pytest.mark.parametrize(
    ("clips", "misses", "passed"),
    [(9, 1, False), (10, 1, True), (17, 1, True), (17, 2, False), (20, 1, True), (39, 2, False), (60, 3, True)],
)
def test_one_miss_of_ten_to_nineteen_clips_says_nothing(clips, misses, passed):
    kept, missed = {"branches": ["left"] * 6}, {"branches": [None] * 6}
    swapped = {"swapped_branch": "left", "swapped_branches": ["left"] * 6}
    rows = [_clip(branch="left", **swapped, **(missed if i < misses else kept)) for i in range(clips)]
    assert _row(summarize(rows), "follows the navigation").passed is passed


def test_what_no_clip_asked_is_not_passed():
    row = _row(summarize([_clip()]), "light colour answered rightly")
    assert math.isnan(row.value)
    assert row.passed is False
    assert row.to_json()["value"] is None


def test_quantiles_rise_and_are_repeatable():
    quantiles = acceleration_quantiles(0)
    assert len(quantiles) == 6
    assert quantiles == sorted(quantiles)
    assert quantiles == acceleration_quantiles(0)
    assert quantiles[0] < -0.3 < 0.1 < quantiles[-1]


def test_runs_and_goes_on(tmp_path, capsys):
    torch.manual_seed(0)
    model = tmp_path / "model"
    write_skeleton(model, STATISTICS)
    config = parse_model_config(
        model, read_json(model / "config.json"), read_json(model / BACKBONE / "config.json")
    )
    network = Network(config)
    initialize(network, 0)
    with torch.no_grad():
        # It ends its reasoning at once, so that the test takes seconds.
        network.language.lm_head.weight.zero_()
        network.language.lm_head.weight[config.traj_token_ids["future_start"]] = 1.0
    save_checkpoint(network, config, model)
    out = tmp_path / "scores.jsonl"
    command = ["world", "score", "--model", str(model), "--device", "cpu", "--out", str(out)]
    assert main([*command, "--clips", "1"]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert main([*command, "--clips", "1", "--json"]) == 1
    said = capsys.readouterr()
    assert "[1/1]" not in said.err  # the clip was there already
    table = json.loads(said.out)["table"]
    assert {"minADE6, m", "reasoning names the cause"} <= {row["name"] for row in table}
    assert len(out.read_text().splitlines()) == 2
    assert main([*command, "--clips", "1", "--seed", "3"]) == 2
    assert "belongs to another" in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from situations import driving_sample
from torch import nn

from alpamayo_rt import InputError, Model
from alpamayo_rt.cli.clip_source import read_clips
from alpamayo_rt.quantization.calibration import Calibration, calibrate, read_calibration, watched

CPU = torch.device("cpu")


def test_a_calibration_holds_the_largest_input_of_every_linear_layer(model_1_5: Model) -> None:
    clips = [(f"clip {n}", driving_sample(seed=n)) for n in range(2)]
    both = calibrate(model_1_5, clips, ("language", "vision", "expert"))
    network = model_1_5.engine.network  # type: ignore[attr-defined]
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    assert set(both.activation_amax) == linear
    assert both.clips == ("clip 0", "clip 1")
    assert both.model_hash == model_1_5.checkpoint.fingerprint()
    one = calibrate(model_1_5, clips[:1], ("language",))
    assert set(one.activation_amax) == {name for name in linear if name.startswith("language.")}
    assert all(both.activation_amax[name] >= value > 0 for name, value in one.activation_amax.items())


def test_watched_layers_are_measured_and_left_as_they_were() -> None:
    network = nn.Module()
    network.language = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with watched(network, ("language",)) as largest:
        network.language(torch.tensor([[1.0, -7.5, 2.0]]))
        network.language(torch.tensor([[3.0, 0.0, 2.0]]))
    network.language(torch.full((1, 3), 100.0))
    assert float(largest["language.0"]) == 7.5
    assert set(largest) == {"language.0", "language.2"}


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    made = Calibration("abc", ("a", "b"), {"language.lm_head": 1.5})
    made.save(tmp_path / "calibration.json")
    assert read_calibration(tmp_path / "calibration.json") == made
    made.check_model("abc")
    with pytest.raises(InputError, match="measured on weights abc, expected those of def"):
        made.check_model("def")
    with pytest.raises(InputError, match=r"nothing on vision\.blocks\.0\.attn\.qkv.*--parts that name vision"):
        made.amax("vision.blocks.0.attn.qkv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_hash": 3}, "model_hash 3, expected"),
        ({"clips": "a"}, "clips 'a', expected a list"),
        ({"activation_amax": {}}, "activation_amax missing"),
        ({"activation_amax": {"x": -1.0}}, r"activation_amax\.x: -1\.0, expected a magnitude"),
        ({"activation_amax": {"x": float("nan")}}, r"activation_amax\.x: nan"),
        ({"activation_amax": {"x": True}}, r"activation_amax\.x: True"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    value = {"model_hash": "abc", "clips": ["a"], "activation_amax": {"x": 1.0}} | change
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=message):
        read_calibration(tmp_path / "c.json")


def test_what_is_no_calibration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing, expected a calibration file"):
        read_calibration(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match="holds a JSON list"):
        read_calibration(tmp_path / "list.json")


def test_calibration_needs_clips_and_known_parts(model_1_5: Model) -> None:
    with pytest.raises(InputError, match="clips: none"):
        calibrate(model_1_5, [])
    with pytest.raises(InputError, match="parts: wheels, expected some of"):
        calibrate(model_1_5, [], ("language", "wheels"))


def test_live_clips_by_name() -> None:
    clips = list(read_clips("world-live:7:3", 2, CPU))
    assert [name for name, _ in clips] == ["world-live:7:0", "world-live:7:1"]
    assert all(sample.frames is not None for _, sample in clips)


@pytest.mark.parametrize("source", ["world-live:7", "somewhere", "world:", "world-live:7:0"])
def test_unknown_sources_of_clips_are_refused(source: str) -> None:
    with pytest.raises(InputError, match="clips: "):
        read_clips(source, None, CPU)

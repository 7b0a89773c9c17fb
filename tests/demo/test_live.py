# SPDX-License-Identifier: Apache-2.0
"""Clips of the world by name, without files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from situations import SHIPPED

from alpamayo_rt.cli.main import main
from alpamayo_rt.demo.live import live_clip
from alpamayo_rt.demo.world import World
from alpamayo_rt.errors import InputError

CHECKPOINT = str(SHIPPED / "model" / "checkpoint")
QUICK = ["--num-candidates", "2", "--num-diffusion-steps", "1", "--max-generate-length", "2"]


def test_a_live_clip_is_the_worlds_own_window() -> None:
    clip = live_clip("world-live:0:3")
    sample, truth = World(0, "test").sample(3)
    read, future = clip.read(torch.device("cpu"))
    assert clip.t0_us == truth["t_us"]
    assert torch.equal(read.frames, sample.frames)
    assert read.navigation == sample.navigation
    assert torch.allclose(future, torch.from_numpy(truth["future_xyz"]).float())


def test_infer_drives_a_live_clip_and_says_how_near_it_came(tmp_path: Path) -> None:
    out, picture = tmp_path / "out.json", tmp_path / "a.png"
    arguments = ["infer", "--model", CHECKPOINT, "--clip", "world-live:0:3", "--output-file", str(out), *QUICK]
    assert main([*arguments, "--plot", str(picture)]) == 0
    response = json.loads(out.read_text())["responses"][0]
    assert response["t0_us"] == live_clip("world-live:0:3").t0_us
    assert set(response["metrics"]) == {"min_ade_2", "min_ade_1"}
    assert response["metrics"]["min_ade_2"] <= response["metrics"]["min_ade_1"]
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["world-live:0", "world-live:a:1", "world-live:0:-1", "world-live:0:1:2"])
def test_a_name_of_another_form_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", "--model", CHECKPOINT, "--clip", name]) == 2
    assert "expected world-live:SEED:NUMBER" in capsys.readouterr().err


@pytest.mark.parametrize("t0_us", [1_400_000, 3_700_000, 2_050_000, -100_000])
def test_a_time_outside_the_windows_is_refused(t0_us: int) -> None:
    with pytest.raises(InputError, match="t0_us"):
        live_clip("world-live:0:3", t0_us)


def test_a_live_clip_is_asked_for_any_task() -> None:
    clip, cpu = live_clip("world-live:0:3"), torch.device("cpu")
    plain, future = clip.read(cpu)
    meta, _ = clip.read(cpu, task="meta_action")
    label, _ = clip.read(cpu, task="auto_labeling")
    assert (meta.task, meta.navigation, meta.ego_future_xyz) == ("meta_action", None, None)
    assert plain.task is None
    assert clip.read(cpu, task="trajectory")[0].navigation == plain.navigation
    assert label.navigation is None
    assert torch.equal(label.ego_future_xyz, future)
    assert label.ego_future_rot.shape == (64, 3, 3)

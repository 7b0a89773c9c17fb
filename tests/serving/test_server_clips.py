# SPDX-License-Identifier: Apache-2.0
"""The clips that the page can show, of the demo world and of a dataset on disk."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from alpamayo_rt import Model
from alpamayo_rt.cli.main import main
from alpamayo_rt.demo.live import live_clip
from alpamayo_rt.errors import DatasetError
from alpamayo_rt.serving.clips import ClipShelf, shown
from alpamayo_rt.serving.refusal import Refusal
from conftest import Running


def test_the_list_and_its_windows(running: Running) -> None:
    clips = running.client.get("/page/clips")
    assert [clip["id"] for clip in clips["clips"]] == ["world-live:0:0", "world-live:0:1"]
    assert (clips["state"], clips["model"]) == ("ready", "checkpoint (eager, fp32)")
    span = running.client.get("/page/clip?clip=world-live:0:1")
    assert span["first_us"] <= span["t0_us"] <= span["last_us"]
    found = running.client.get(f"/page/window?clip=world-live:0:1&t0_us={span['t0_us'] + 100_000}")
    sample, future = live_clip("world-live:0:1", span["t0_us"] + 100_000).read(torch.device("cpu"))
    assert found["navigation"] == sample.navigation
    assert torch.allclose(torch.tensor(found["future"]), future[:, :2])
    assert found["images"][0]["name"] == "Front left camera"
    data = base64.b64decode(found["images"][1]["src"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (224, 128)


def test_the_page_gets_what_infer_gives(running: Running, model_1_5: Model) -> None:
    clip = live_clip("world-live:0:1")
    body = {
        "clip": "world-live:0:1", "t0_us": clip.t0_us, "num_traj_samples": 2, "num_diffusion_steps": 2,
        "nav_text": "Turn left in 20m", "seed": 4,
    }  # fmt: skip
    result = list(running.client.events("/page/run", body))[-1].data
    sample, _ = clip.read(torch.device("cpu"), "Turn left in 20m")
    local = model_1_5.infer(sample, num_candidates=2, num_diffusion_steps=2, seed=4)
    assert local.trajectories is not None
    assert torch.equal(torch.tensor(result["trajectories"]), local.trajectories)
    asked = list(running.client.events("/page/run", body | {"mode": "answer", "question": "Why?"}))[-1].data
    assert asked["answer"] == model_1_5.infer(sample.replaced(navigation=None, question="Why?"), seed=4).answer


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    pytest.importorskip("physical_ai_av", reason="needs the dataset's kit")
    assert main(["world", "make", "--clips", "1", "--seed", "3", "--out", str(tmp_path)]) == 0
    shelf = ClipShelf(0, 1, tmp_path)
    names = [clip["id"] for clip in shelf.listed()]
    assert names == ["world-live:0:0", "world-test-3-000000"]
    span = shelf.span(names[1])
    assert (span["last_us"] - span["first_us"]) % span["step_us"] == 0
    window = shelf.window(names[1], span["t0_us"])
    assert window.future is not None
    assert shelf.window(names[1], span["t0_us"]) is window
    late = shelf.window(names[1], span["last_us"])
    assert late.future is None
    assert shown(late, span["last_us"])["future"] is None
    with pytest.raises(Refusal, match="t0_us"):
        shelf.window(names[1], span["last_us"] + 100_000)
    for name in ("../x", str(tmp_path), "world-test-3-000001"):
        with pytest.raises(Refusal, match="not on the list"):
            shelf.window(name, 0)


def test_a_dataset_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("physical_ai_av", reason="needs the dataset's kit")
    with pytest.raises(DatasetError):
        ClipShelf(0, 1, tmp_path / "nothing")

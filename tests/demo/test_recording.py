# SPDX-License-Identifier: Apache-2.0
"""Clips of the world in the dataset's layout, read back through the dataset's kit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alpamayo_rt.demo import world as world_module
from alpamayo_rt.demo.recording import TRUTH_FILE, write_world
from alpamayo_rt.demo.world import World, WorldClip
from alpamayo_rt.sample.clips import ClipDataset

pytest.importorskip("physical_ai_av")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips whose frames are drawn in the clip's own window only: drawing all takes a while on a CPU."""

    def frames(self: WorldClip, device: object = "cpu") -> dict[int, np.ndarray]:
        drawn = World(0, "test").sample(int(self.scene.index))[0].frames
        assert drawn is not None
        out = {}
        for camera, row in zip((0, 1, 2, 6), drawn, strict=True):
            clip = np.zeros((len(self.timestamps_us), 128, 224, 3), np.uint8)
            t0 = int(self.scene.t0)
            clip[t0 - 3 : t0 + 1] = row.permute(0, 2, 3, 1).numpy()
            out[camera] = clip
        return out

    monkeypatch.setattr(world_module.WorldClip, "frames", frames)


def test_a_clip_comes_back_as_the_world_gives_it(tmp_path: Path, short: None) -> None:
    assert list(write_world(tmp_path, 1, 0)) == [("world-test-0-000000", True)]
    live, truth = World(0, "test").sample(0)
    dataset = ClipDataset(tmp_path)
    clip = dataset.read("world-test-0-000000", truth["t_us"])
    assert live.frames is not None
    assert clip.sample.frames is not None
    difference = (clip.sample.frames.int() - live.frames.int()).abs().float()
    # Video coding halves the colour's resolution and rounds; shapes stay where they are.
    assert difference.mean() < 4
    assert torch.allclose(clip.sample.history_xyz, live.history_xyz, atol=2e-3)
    assert clip.future_xyz is not None
    assert torch.allclose(clip.future_xyz, torch.tensor(truth["future_xyz"]).float(), atol=2e-3)
    said = json.loads(dataset.read_extra("world-test-0-000000", TRUTH_FILE))
    assert said["clip_id"] == "world-test-0-000000"
    own = next(w for w in said["windows"] if w["t_us"] == truth["t_us"])
    assert own["cause"] == truth["cause"]


def test_writing_goes_on_where_it_was(tmp_path: Path, short: None) -> None:
    assert [new for _, new in write_world(tmp_path, 1, 0)] == [True]
    assert list(write_world(tmp_path, 2, 0)) == [
        ("world-test-0-000000", False),
        ("world-test-0-000001", True),
    ]
    assert set(ClipDataset(tmp_path).clip_ids()) == {"world-test-0-000000", "world-test-0-000001"}


@pytest.mark.slow
def test_all_frames_of_a_clip_come_back(tmp_path: Path) -> None:
    list(write_world(tmp_path, 1, 0))
    live = World(0, "test")
    dataset = ClipDataset(tmp_path)
    for t0 in (20, 33):
        sample, _ = live.sample(0, t0)
        clip = dataset.read("world-test-0-000000", t0 * 100_000)
        assert sample.frames is not None
        assert clip.sample.frames is not None
        assert (clip.sample.frames.int() - sample.frames.int()).abs().float().mean() < 4

# SPDX-License-Identifier: Apache-2.0
"""The shipped demo model: where it lies, how large it is, and that it drives."""

from __future__ import annotations

import json

import pytest

import alpamayo_rt
from alpamayo_rt.demo.score import score_clip
from alpamayo_rt.demo.world import World
from alpamayo_rt.hub import find_checkpoint, nano_folder


@pytest.fixture(scope="module")
def nano():
    return alpamayo_rt.load("nano", device="cpu")


def test_is_found_by_its_name():
    assert find_checkpoint("nano") == nano_folder()


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("nano").resolve() == tmp_path / "nano"


def test_is_small_and_in_two_shards(nano):
    shards = sorted(nano_folder().glob("*.safetensors"))
    assert len(shards) == 2
    assert all(shard.stat().st_size < 15_000_000 for shard in shards)
    index = json.loads((nano_folder() / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert sum(p.numel() for p in nano.engine.network.parameters()) <= 14_000_000


@pytest.mark.parametrize("index", [4, 5])  # a right turn, a red light
def test_drives_for_the_right_reason(nano, index):
    world = World(0)
    clip = score_clip(nano, world, index, [-1.0, 0.0, 1.0])
    assert clip["named"] == clip["cause"]
    assert min(clip["ade"]) < 0.5 * min(clip["constant_velocity"], clip["constant_turn_rate"])
    assert min(clip["ade"]) < min(clip["black_ade"])
    assert ("branch" in clip, "swapped_branch" in clip) == ((True, True) if index == 4 else (False, False))
    if index == 4:
        assert clip["branches"].count(clip["branch"]) >= 5
        assert clip["swapped_branches"].count(clip["swapped_branch"]) >= 5
    assert min(clip["ade"]) < min(clip["frozen_ade"])

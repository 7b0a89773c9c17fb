# SPDX-License-Identifier: Apache-2.0
"""Where clips come from: the same clip drawn in memory and read back from files is the same situation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from eval_runs import evaluate, records

from alpamayo_rt.demo.recording import write_world
from alpamayo_rt.errors import InputError
from alpamayo_rt.harness.clip_list import ClipRef, write_list
from alpamayo_rt.harness.sources import DatasetSource, LiveSource, SourceSpec


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    assert len(list(write_world(root, 2, 0))) == 2
    return root


def test_a_written_clip_is_the_one_that_is_drawn(written):
    live, files = LiveSource(0, 2), DatasetSource(str(written))
    assert live.refs() == files.refs()
    for ref in live.refs():
        drawn, read = live.read(ref), files.read(ref)
        assert (read.cause, read.sample.navigation) == (drawn.cause, drawn.sample.navigation)
        np.testing.assert_allclose(read.future_xy, drawn.future_xy, atol=1e-3)
        np.testing.assert_allclose(read.future_heading, drawn.future_heading, atol=1e-3)
        np.testing.assert_allclose(read.history_xyz, drawn.history_xyz, atol=1e-3)
        # The video is lossy, a little.
        assert (read.sample.frames.float() - drawn.sample.frames.float()).abs().mean() < 4
        blind = live.read(ref, with_images=False)
        assert blind.sample is None
        np.testing.assert_array_equal(blind.future_xy, drawn.future_xy)


def test_runs_over_both_pair(written, tmp_path):
    model = "baseline:constant-turn-rate"
    assert evaluate(tmp_path / "files", model=model, clips=f"world:{written}") == 0
    assert evaluate(tmp_path / "live", model=model, clips="world-live:0:2") == 0
    by_id = {record["clip_id"]: record for record in records(tmp_path / "live")}
    for record in records(tmp_path / "files"):
        other = by_id[record["clip_id"]]
        assert (record["t0_us"], record["seed"], record["true_cause"]) == (
            other["t0_us"], other["seed"], other["true_cause"],
        )  # fmt: skip
        assert record["metrics"]["min_ade_6"] == pytest.approx(other["metrics"]["min_ade_6"], abs=0.02)


def test_a_list_chooses_order_time_and_navigation(written, tmp_path):
    names = [ref.clip_id for ref in LiveSource(0, 2).refs()]
    path = tmp_path / "list.json"
    write_list(path, [ClipRef(names[1], 2_000_000, "Turn left in 40m"), ClipRef("gone"), ClipRef(names[0])])
    source = SourceSpec(str(path), str(written)).open()
    refs = source.refs()
    assert [ref.clip_id for ref in refs] == [names[1], "gone", names[0]]
    assert refs[0].t0_us == 2_000_000
    assert refs[1].t0_us == 5_100_000
    assert refs[2].t0_us == LiveSource(0, 1).refs()[0].t0_us, "a clip of the demo world knows its own"
    assert source.present(refs) == set(names)
    assert source.read(refs[0]).sample.navigation == "Turn left in 40m"


def test_a_list_needs_to_know_where_the_clips_are(tmp_path):
    write_list(tmp_path / "list.txt", [ClipRef("a")])
    with pytest.raises(InputError, match="--dataset-root"):
        SourceSpec(str(tmp_path / "list.txt")).open()


def test_more_clips_of_the_world_are_the_same_run():
    assert SourceSpec("world-live:0:300").identity() == SourceSpec("world-live:0:3000").identity()
    assert SourceSpec("world-live:0:300").identity() != SourceSpec("world-live:1:300").identity()
    assert SourceSpec("world:ROOT").identity() == "world:ROOT"

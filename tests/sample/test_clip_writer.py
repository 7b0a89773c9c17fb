# SPDX-License-Identifier: Apache-2.0
"""The writer of the dataset's layout: complete or absent, resumable, the same bytes for the same input."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("physical_ai_av")

from clip_recordings import T0, chunk_zip, message, recording, tree

from alpamayo_rt.errors import DatasetError, InputError
from alpamayo_rt.sample import clip_writer
from alpamayo_rt.sample.clip_writer import ClipRecording, DatasetWriter, EncodedClip, encode_recording
from alpamayo_rt.sample.clips import ClipDataset
from alpamayo_rt.sample.dataset_layout import REPO_FOLDER

pytestmark = pytest.mark.usefixtures("no_network")


def test_same_input_same_bytes(written: Path, tmp_path: Path, original: ClipRecording) -> None:
    writer = DatasetWriter(tmp_path)
    writer.write(encode_recording(original))
    writer.write(recording("clip-short", seconds=7.0, cameras=(1,)))
    assert tree(tmp_path) == tree(written)


def test_complete_clips_are_skipped(copied: Path, original: ClipRecording) -> None:
    before = tree(copied)
    writer = DatasetWriter(copied)
    assert writer.written() == ("clip-a", "clip-short")
    assert not writer.write(original)
    assert tree(copied) == before


@pytest.mark.parametrize("step", range(7))  # three archives, one file beside them, three tables
def test_interrupted_write(
    copied: Path, encoded: EncodedClip, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file an interruption hits, what was there stays readable and the same work can go on."""
    reference = Path(shutil.copytree(copied, copied.parent / "reference"))
    DatasetWriter(reference).write(encoded)

    writer = DatasetWriter(copied)
    replace, count = clip_writer._replace, iter(range(100))

    def interrupted(path: Path, data: bytes) -> None:
        if next(count) == step:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.partial").write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        replace(path, data)

    monkeypatch.setattr(clip_writer, "_replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.write(encoded)
    dataset = ClipDataset(copied)
    assert dataset.clip_ids((1,)) == ("clip-a", "clip-short")
    assert dataset.read("clip-a", T0).t0_us == T0
    with pytest.raises(InputError):
        dataset.read("clip-b", 2_000_000, (1,), with_future=False)
    monkeypatch.setattr(clip_writer, "_replace", replace)
    writer = DatasetWriter(copied)
    assert writer.written() == ("clip-a", "clip-short")
    assert writer.write(encoded)
    assert ClipDataset(copied).read("clip-b", 2_000_000, (1, 3), with_future=False).sample.num_images == 8
    assert tree(copied) == tree(reference)


def test_leftovers_of_another_clip_do_not_show(copied: Path) -> None:
    """An interrupted clip had a camera that the clip taking its chunk has not."""
    left = chunk_zip(copied, "camera_front_wide_120fov").with_name("camera_front_wide_120fov.chunk_0002.zip")
    left.write_bytes(b"left over")
    DatasetWriter(copied).write(recording("clip-b", seconds=3.0, cameras=(3,)))
    assert not left.exists()
    assert ClipDataset(copied).clip_ids((3,)) == ("clip-b",)


def test_the_writer_leaves_a_foreign_dataset_alone(copied: Path) -> None:
    (copied / REPO_FOLDER / "refs" / "main").write_text("0" * 40)
    before = tree(copied)
    with pytest.raises(DatasetError) as error:
        DatasetWriter(copied)
    assert "not made by this writer" in message(error)
    assert tree(copied) == before


def test_an_empty_dataset_opens(tmp_path: Path) -> None:
    assert DatasetWriter(tmp_path).written() == ()
    assert ClipDataset(tmp_path).clip_ids() == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"clip_id": "../evil"}, "clip_id"),
        ({"extra_files": {"a/b": b""}}, "extra_files"),
        ({"camera_frames": {1: np.zeros((3, 15, 16, 3), np.uint8)}}, "even"),
        ({"camera_frames": {1: np.zeros((3, 16, 16, 3), np.float32)}}, "uint8"),
        ({"camera_frames": {1: np.zeros((4, 16, 16, 3), np.uint8)}}, "camera_timestamps_us"),
        ({"camera_timestamps_us": {1: np.array([3, 2, 1])}}, "increasing"),
        ({"camera_timestamps_us": {2: np.array([1, 2, 3])}}, "same cameras"),
        ({"ego_xyz": np.full((2, 3), np.nan)}, "ego_xyz"),
        ({"ego_quat_xyzw": np.zeros((2, 4))}, "ego_quat_xyzw"),
        ({"ego_timestamps_us": np.array([0.0, 1.0])}, "ego_timestamps_us"),
    ],
)
def test_wrong_recordings_write_nothing(tmp_path: Path, change: dict, word: str) -> None:
    good = ClipRecording(
        clip_id="c",
        camera_frames={1: np.zeros((3, 16, 16, 3), np.uint8)},
        camera_timestamps_us={1: np.array([1, 2, 3])},
        ego_timestamps_us=np.array([0, 1]),
        ego_xyz=np.zeros((2, 3)),
        ego_quat_xyzw=np.array([[0.0, 0, 0, 1]] * 2),
    )
    writer = DatasetWriter(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(InputError) as error:
        writer.write(dataclasses.replace(good, **change))
    assert word in message(error)
    assert tree(tmp_path) == before

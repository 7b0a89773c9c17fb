# SPDX-License-Identifier: Apache-2.0
"""Clips through the real developer kit: what the writer puts on disk, the reader must give back."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("physical_ai_av")

from clip_recordings import HEIGHT, SPEED, T0, TURN_RATE, WIDTH, chunk_zip, frame, message, rewrite_member

from alpamayo_rt.errors import DatasetError, InputError
from alpamayo_rt.sample.clip_writer import REVISION, ClipRecording, DatasetWriter, encode_recording
from alpamayo_rt.sample.clips import ClipDataset
from alpamayo_rt.sample.dataset_layout import REPO_FOLDER

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize("t0_us", [T0, 5_100_000, 2_000_000])
def test_frames_are_the_last_at_or_before_each_time(written: Path, original: ClipRecording, t0_us: int) -> None:
    clip = ClipDataset(written).read("clip-a", t0_us)
    assert clip.sample.camera_indices == (0, 1, 2, 6)
    assert tuple(clip.sample.frames.shape) == (4, 4, 3, HEIGHT, WIDTH)
    for row, camera in enumerate(clip.sample.camera_indices):
        times = original.camera_timestamps_us[camera]
        for column, wanted in enumerate(t0_us + np.array([-300_000, -200_000, -100_000, 0])):
            number = np.flatnonzero(times <= wanted)[-1]
            assert clip.frame_timestamps_us[row, column] == times[number]
            image = clip.sample.frames[row, column].numpy().transpose(1, 2, 0).astype(int)
            assert np.abs(image - frame(camera, number)).mean() < 2.0  # a neighbour is 9 away


def test_a_frame_taken_exactly_at_its_time_counts(written: Path, original: ClipRecording) -> None:
    t0_us = int(original.camera_timestamps_us[1][150])
    clip = ClipDataset(written).read("clip-a", t0_us, camera_indices=(1,), num_frames=1)
    assert clip.frame_timestamps_us.tolist() == [[t0_us]]
    just_before = ClipDataset(written).read("clip-a", t0_us - 1, camera_indices=(1,), num_frames=1)
    assert just_before.frame_timestamps_us.tolist() == [[int(original.camera_timestamps_us[1][149])]]


def test_poses_follow_the_closed_form_of_a_turn(written: Path) -> None:
    clip = ClipDataset(written).read("clip-a", T0)
    for times, xyz, rot in (
        (np.arange(-15, 1) * 0.1, clip.sample.history_xyz, clip.sample.history_rot),
        (np.arange(1, 65) * 0.1, clip.future_xyz, clip.future_rot),
    ):
        angle, radius = TURN_RATE * times, SPEED / TURN_RATE
        expected = np.stack([radius * np.sin(angle), radius * (1 - np.cos(angle)), 0 * angle], axis=-1)
        np.testing.assert_allclose(xyz.numpy(), expected, atol=1e-4)
        c, s, zero, one = np.cos(angle), np.sin(angle), 0 * angle, 1 + 0 * angle
        turn = np.stack([c, -s, zero, s, c, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
        np.testing.assert_allclose(rot.numpy(), turn, atol=1e-5)


def test_cameras_keep_the_order_asked_for(written: Path) -> None:
    dataset = ClipDataset(written)
    there, back = dataset.read("clip-a", T0, (1, 6)), dataset.read("clip-a", T0, (6, 1))
    assert back.sample.camera_indices == (6, 1)
    assert there.sample.frames.flip(0).equal(back.sample.frames)


def test_future(written: Path) -> None:
    dataset = ClipDataset(written)
    _, last = dataset.t0_range_us("clip-a")
    assert dataset.read("clip-a", last).future_xyz is not None
    assert dataset.read("clip-a", last + 1, with_future="if available").future_xyz is None
    assert dataset.read("clip-a", last, with_future="if available").future_rot.shape == (64, 3, 3)
    assert dataset.read("clip-a", last, with_future=False).future_xyz is None
    with pytest.raises(InputError) as error:
        dataset.read("clip-a", last + 1)
    assert "6.4 s" in message(error)
    assert str(last) in message(error)


@pytest.mark.parametrize("with_future", [True, False])
def test_t0_range_is_exactly_what_can_be_read(written: Path, with_future: bool) -> None:
    dataset = ClipDataset(written)
    first, last = dataset.t0_range_us("clip-a", with_future=with_future)
    for t0_us in (first, last):
        assert dataset.read("clip-a", t0_us, with_future=with_future).t0_us == t0_us
    for t0_us in (first - 1, last + 1, -5, 10**12):
        with pytest.raises(InputError, match="t0_us"):
            dataset.read("clip-a", t0_us, with_future=with_future)


def test_too_short_a_clip(written: Path) -> None:
    dataset = ClipDataset(written)
    with pytest.raises(InputError) as error:
        dataset.read("clip-short", 3_000_000, (1,))
    assert "too short" in message(error)
    with pytest.raises(InputError, match="too short"):
        dataset.t0_range_us("clip-short", (1,))
    assert dataset.read("clip-short", 3_000_000, (1,), with_future="if available").future_xyz is None


def test_listing_and_files_beside_a_clip(written: Path) -> None:
    dataset = ClipDataset(written)
    assert dataset.revision == REVISION
    assert dataset.clip_ids() == ("clip-a",)
    assert dataset.clip_ids((1,)) == ("clip-a", "clip-short")
    assert dataset.metadata("clip-a") == {"country": "Demo", "month": "1"}
    assert dataset.read_extra("clip-a", "world.json") == b"{}"
    for name in ("none.json", "../clip-a/world.json"):
        with pytest.raises(InputError) as error:
            dataset.read_extra("clip-a", name)
        assert name in message(error)


def test_the_hub_library_keeps_its_state(written: Path) -> None:
    import huggingface_hub

    dataset = ClipDataset(written)
    assert dataset._kit.is_offline_mode
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_unknown_clip_camera_and_count(written: Path) -> None:
    dataset = ClipDataset(written)
    for arguments, word in (
        ({"clip_id": "nope"}, "'nope'"),
        ({"clip_id": "clip-a", "camera_indices": (0, 9)}, "camera 9"),
        ({"clip_id": "clip-a", "camera_indices": (1, 1)}, "distinct"),
        ({"clip_id": "clip-a", "camera_indices": ()}, "camera_indices"),
        ({"clip_id": "clip-a", "num_frames": 0}, "num_frames"),
        ({"clip_id": "clip-short", "camera_indices": (0,)}, "camera_cross_left_120fov"),
    ):
        with pytest.raises(InputError) as error:
            dataset.read(**arguments)
        assert word in message(error)


def test_missing_chunk(copied: Path) -> None:
    chunk_zip(copied, "camera_cross_right_120fov").unlink()
    dataset = ClipDataset(copied)
    with pytest.raises(InputError) as error:
        dataset.read("clip-a", T0)
    assert "camera_cross_right_120fov" in message(error)
    assert dataset.read("clip-a", T0, (0, 1)).sample.num_images == 8
    assert dataset.clip_ids() == ()
    assert dataset.clip_ids((0, 1)) == ("clip-a",)


@pytest.mark.parametrize(
    ("feature", "ending", "change"),
    [
        ("camera_front_wide_120fov", ".mp4", lambda data: data[: len(data) // 2]),
        ("camera_front_wide_120fov", ".mp4", lambda data: b"not a video" * 100),
        ("camera_front_wide_120fov", ".mp4", lambda data: b""),
        ("camera_front_wide_120fov", ".timestamps.parquet", lambda data: data[:-40]),
        ("egomotion", ".parquet", lambda data: b"PAR1"),
    ],
)
def test_damaged_member(copied: Path, feature: str, ending: str, change: Callable[[bytes], bytes]) -> None:
    rewrite_member(chunk_zip(copied, feature), ending, change)
    with pytest.raises(InputError) as error:
        ClipDataset(copied).read("clip-a", T0)
    assert feature in message(error)
    assert "clip-a" in message(error)


def test_flipped_bits_in_a_zip_do_not_become_a_picture(copied: Path) -> None:
    path = chunk_zip(copied, "camera_front_wide_120fov")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError) as error:
        ClipDataset(copied).read("clip-a", T0)
    assert "camera_front_wide_120fov" in message(error)


def test_video_with_fewer_frames_than_timestamps(copied: Path, original: ClipRecording) -> None:
    short = dataclasses.replace(
        original,
        camera_frames={1: original.camera_frames[1][:50]},
        camera_timestamps_us={1: original.camera_timestamps_us[1][:50]},
    )
    archive = encode_recording(short).archives["camera_front_wide_120fov"]
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        video = members.read("clip-a.camera_front_wide_120fov.mp4")
    rewrite_member(chunk_zip(copied, "camera_front_wide_120fov"), ".mp4", lambda data: video)
    with pytest.raises(InputError) as error:
        ClipDataset(copied).read("clip-a", T0)
    assert "camera_front_wide_120fov" in message(error)


def test_datasets_that_cannot_be_opened(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(root: Path, **options: str) -> str:
        with pytest.raises(DatasetError) as error:
            ClipDataset(root, **options)
        return message(error)

    assert "no folder" in refused(tmp_path / "nowhere")
    assert "hub cache" in refused(tmp_path)
    assert REVISION in refused(copied, revision="other")
    snapshot = copied / REPO_FOLDER / "snapshots" / REVISION
    (snapshot / "clip_index.parquet").write_bytes(b"PAR1")
    assert "cannot open" in refused(copied)
    (snapshot / "clip_index.parquet").unlink()
    assert "clip_index.parquet" in refused(copied)
    (snapshot / "features.csv").unlink()
    assert "no snapshot" in refused(copied)


def test_kit_not_installed(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "physical_ai_av", None)
    with pytest.raises(DatasetError) as error:
        ClipDataset(written)
    assert "pip install 'alpamayo-rt[data]'" in message(error)


def test_kit_with_an_old_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "physical_ai_av.py").write_text("import scipy.spatial.transform as t\nt.NewerThanThis\n")
    monkeypatch.delitem(sys.modules, "physical_ai_av")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DatasetError) as error:
        DatasetWriter(tmp_path)
    assert "--upgrade" in message(error)


def test_revision_is_main_else_the_only_one(copied: Path) -> None:
    repo = copied / REPO_FOLDER
    (repo / "refs" / "main").unlink()
    assert ClipDataset(copied).revision == REVISION
    shutil.copytree(repo / "snapshots" / REVISION, repo / "snapshots" / "v2")
    with pytest.raises(DatasetError) as error:
        ClipDataset(copied)
    assert "v2" in message(error)
    assert ClipDataset(copied, revision="v2").revision == "v2"
    assert ClipDataset(copied, revision="v2").read("clip-a", T0).t0_us == T0

# SPDX-License-Identifier: Apache-2.0
"""`infer --clip`: a clip on disk, through the dataset's own kit, without a network."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("physical_ai_av")

from cli_runs import CHECKPOINT, QUICK, SETTINGS, Run, without_times
from jsonschema import Draft202012Validator
from test_schemas import RESULT

from alpamayo_rt import Model, Sample
from alpamayo_rt.sample.clip_writer import ClipRecording, DatasetWriter
from alpamayo_rt.sample.clips import ClipDataset

T0 = 2_000_000
pytestmark = pytest.mark.usefixtures("loaded_once", "no_network")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network access")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short clip straight ahead, in the dataset's layout."""
    seconds = 3.0
    times = np.arange(0, int(seconds * 1e6), 33_333)
    ego = np.arange(0, int(seconds * 1e6), 10_000)
    zero = np.zeros(len(ego))
    noise = np.random.default_rng(0).integers(0, 256, (len(times), 48, 80, 3), dtype=np.uint8)
    recording = ClipRecording(
        clip_id="clip-a",
        camera_frames={camera: np.roll(noise, camera, axis=2) for camera in (0, 1, 2, 6)},
        camera_timestamps_us=dict.fromkeys((0, 1, 2, 6), times),
        ego_timestamps_us=ego,
        ego_xyz=np.stack([6.0 * ego / 1e6, zero, zero], axis=-1),
        ego_quat_xyzw=np.stack([zero, zero, zero, zero + 1], axis=-1),
    )
    root = tmp_path_factory.mktemp("dataset")
    assert DatasetWriter(root).write(recording)
    return root


def arguments(root: Path, clip: str = "clip-a", t0_us: int = T0) -> tuple[object, ...]:
    return ("infer", "--model", CHECKPOINT, "--clip", clip, "--t0-us", t0_us, "--dataset-root", root, *QUICK)


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        ((), {}),
        (("--nav-text", "Turn left in 40m", "--guidance-weight", 1.5), {"navigation": "Turn left in 40m"}),
        (("--question", "Is it clear?"), {"question": "Is it clear?"}),
    ],
    ids=["plain", "guided", "question"],
)
def test_clip_equals_the_python_interface(
    tmp_path: Path,
    cli: Callable[..., Run],
    dataset_root: Path,
    model: Model,
    flags: tuple,
    texts: dict[str, str],
) -> None:
    output = tmp_path / "out.json"
    run = cli(*arguments(dataset_root), *flags, "--output-file", output)
    assert run.status == 0
    assert run.complaints == []
    written = json.loads(output.read_text())
    assert not list(Draft202012Validator(RESULT).iter_errors(written))
    (response,) = written["responses"]
    assert (response["id"], response["t0_us"]) == ("clip-a", T0)
    clip = ClipDataset(dataset_root).read("clip-a", T0, with_future=False).sample
    sample = Sample(clip.frames, clip.camera_indices, clip.history_xyz, clip.history_rot, **texts)
    weight = 1.5 if "navigation" in texts else None
    expected = without_times(model.infer(sample, **SETTINGS, guidance_weight=weight).to_json())
    assert {name: response[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("clip", "t0_us", "flags", "words"),
    [
        ("nope", T0, (), ["clip_id: 'nope'"]),
        ("clip-a", 50_000_000, (), ["t0_us: 50000000", "clip-a", "expected"]),
        ("clip-a", -5, (), ["t0_us: -5"]),
        ("clip-a", T0, ("--question", "a", "--nav-text", "b"), ["question: given with navigation"]),
        ("clip-a", T0, ("--nav-text", "left <i1>"), ["nav_text", "<i1>"]),
        ("clip-a", T0, ("--guidance-weight", 2), ["guidance_weight: given without navigation"]),
    ],
)
def test_clip_that_fails(
    tmp_path: Path,
    cli: Callable[..., Run],
    dataset_root: Path,
    clip: str,
    t0_us: int,
    flags: tuple,
    words: list[str],
) -> None:
    output = tmp_path / "out.json"
    run = cli(*arguments(dataset_root, clip, t0_us), *flags, "--output-file", output)
    assert run.status == 1
    written = json.loads(output.read_text())
    assert not list(Draft202012Validator(RESULT).iter_errors(written))
    (response,) = written["responses"]
    assert (response["id"], response["status"], response["t0_us"]) == (clip, "error", t0_us)
    for word in words:
        assert word in response["error"]


@pytest.mark.parametrize("made", [False, True])
def test_root_that_is_no_dataset(tmp_path: Path, cli: Callable[..., Run], made: bool) -> None:
    root = tmp_path / "root"
    if made:
        root.mkdir()
    output = tmp_path / "out.json"
    run = cli(*arguments(root), "--output-file", output)
    assert run.status == 2
    (line,) = run.complaints
    assert "dataset_root" in line
    assert not output.exists()

# SPDX-License-Identifier: Apache-2.0
"""Recordings whose pictures and poses are known in closed form, and what tests do with files of a dataset."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alpamayo_rt.sample.clip_encoding import ClipRecording
from alpamayo_rt.sample.dataset_layout import REPO_FOLDER

SPEED, TURN_RATE = 8.0, 0.2  # m/s, rad/s
T0 = 5_123_457  # on no camera's and no pose's grid
HEIGHT, WIDTH = 48, 80


def frame(camera: int, number: int) -> np.ndarray:
    """A smooth picture whose brightness tells the frame's number from its neighbours'."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    base = 30 + 9 * (number % 17) + 5 * camera
    return np.stack([base + x // 4, base + y // 2, base + 0 * x], axis=-1).astype(np.uint8)


def recording(clip_id: str, seconds: float = 12.0, cameras: tuple[int, ...] = (0, 1, 2, 6)) -> ClipRecording:
    """A constant turn, far from the world's origin, with clocks that share nothing."""
    times = {c: 1_000 * c + 12_345 + np.arange(0, int(seconds * 1e6), 33_333) for c in cameras}
    ego = -7_001 + np.arange(0, int(seconds * 1e6), 9_973)
    heading = 1.0 + TURN_RATE * ego / 1e6
    radius = SPEED / TURN_RATE
    xyz = np.stack([4e3 + radius * np.sin(heading), -7e3 - radius * np.cos(heading), 0 * heading + 50], axis=-1)
    zero = np.zeros_like(heading)
    return ClipRecording(
        clip_id=clip_id,
        camera_frames={c: np.stack([frame(c, n) for n in range(len(t))]) for c, t in times.items()},
        camera_timestamps_us=times,
        ego_timestamps_us=ego,
        ego_xyz=xyz,
        ego_quat_xyzw=np.stack([zero, zero, np.sin(heading / 2), np.cos(heading / 2)], axis=-1),
        metadata={"country": "Demo", "month": "1"},
        extra_files={"world.json": b"{}"},
    )


def chunk_zip(root: Path, feature: str, chunk: int = 0) -> Path:
    (path,) = (root / REPO_FOLDER).glob(f"snapshots/*/*/{feature}/*chunk_{chunk:04d}.zip")
    return path


def rewrite_member(path: Path, ending: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(data) if name.endswith(ending) else data)


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def message(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert 0 < len(text) < 500
    return text

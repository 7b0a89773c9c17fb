# SPDX-License-Identifier: Apache-2.0
"""A recording in memory → the bytes of its files in the dataset's layout; the same input, the same bytes.

What each file must hold was taken from the reading side, `physical_ai_av` 0.2.3: an mp4 of constant frame
rate whose n-th frame belongs to the n-th row of a timestamp table, and a table of poses with velocity,
acceleration and curvature.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.cameras import CAMERA_FEATURES, camera_features
from alpamayo_rt.sample.dataset_layout import EGOMOTION
from alpamayo_rt.sample.offline_kit import require_data_extra

VIDEO_QUALITY = 12  # x264's crf: visually lossless
KEYFRAME_INTERVAL = 15  # frames to decode at most before the one that is asked for
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ClipRecording:
    """A clip as it was recorded.

    `camera_frames[c]` (T, H, W, 3) uint8 RGB, even H and W, T ≥ 2, with `camera_timestamps_us[c]` (T,) int64,
    for each camera number c; `ego_timestamps_us` (N,) int64, `ego_xyz` (N, 3) metres and `ego_quat_xyzw`
    (N, 4): ego poses in a fixed world frame, N ≥ 2; all timestamps strictly increasing. `metadata`: what goes
    into the data collection table; `split`: into the clip index; `extra_files`: name → bytes beside the clip.
    """

    clip_id: str
    camera_frames: Mapping[int, np.ndarray]
    camera_timestamps_us: Mapping[int, np.ndarray]
    ego_timestamps_us: np.ndarray
    ego_xyz: np.ndarray
    ego_quat_xyzw: np.ndarray
    metadata: Mapping[str, str] = field(default_factory=dict)
    split: str = "train"
    extra_files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedClip:
    """A recording ready to be put on disk: `archives` maps a feature name to the bytes of its zip."""

    clip_id: str
    archives: Mapping[str, bytes]
    metadata: Mapping[str, str]
    split: str
    extra_files: Mapping[str, bytes]


def encode_recording(recording: ClipRecording) -> EncodedClip:
    """Encode a recording; pure and single-threaded, so that worker processes can share the work.

    Raises:
        InputError: an array's shape, type or order is wrong, or an id or name is not a plain file name.
        DatasetError: the packages of `alpamayo-rt[data]` are not installed.
    """
    require_data_extra()
    _check(recording)
    archives = {
        EGOMOTION: _zip(zip_members(EGOMOTION), recording.clip_id, {"egomotion": _egomotion(recording)})
    }
    for camera, frames in sorted(recording.camera_frames.items()):
        times = {"timestamp": np.asarray(recording.camera_timestamps_us[camera], np.int64)}
        parts = {"video": encode_video(frames, times["timestamp"]), "frame_timestamps": _parquet(times)}
        feature = CAMERA_FEATURES[camera]
        archives[feature] = _zip(zip_members(feature), recording.clip_id, parts)
    return EncodedClip(
        recording.clip_id, archives, dict(recording.metadata), recording.split, dict(recording.extra_files)
    )


def zip_members(feature: str) -> dict[str, str]:
    """The names of a clip's files inside the zip of a feature, with `{clip_id}` in its place."""
    if feature == EGOMOTION:
        return {"egomotion": f"{{clip_id}}.{feature}.parquet"}
    return {
        "video": f"{{clip_id}}.{feature}.mp4",
        "frame_timestamps": f"{{clip_id}}.{feature}.timestamps.parquet",
    }


def encode_video(frames: np.ndarray, timestamps_us: np.ndarray) -> bytes:
    """Encode frames (T, H, W, 3) uint8 RGB as H.264 in an mp4, at a nominal rate in whole frames a second.

    The kit finds a frame by dividing its presentation time by one frame's duration; a whole rate keeps that
    exact, and no B-frames keep the first one at time 0. One thread: x264's output depends on their number.
    """
    import av

    rate = max(1, round(1_000_000 / float(np.median(np.diff(timestamps_us)))))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {
            "crf": str(VIDEO_QUALITY),
            "preset": "veryfast",
            "bf": "0",
            "g": str(KEYFRAME_INTERVAL),
        }
        stream.codec_context.thread_count = 1
        for image in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            # Converted here: where the encoder does it (PyAV 18), the bytes differ from run to run.
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _egomotion(recording: ClipRecording) -> bytes:
    """The pose table; velocity, acceleration (world frame) and curvature are differences of the poses."""
    from scipy.spatial.transform import Rotation

    times = np.asarray(recording.ego_timestamps_us, np.int64)
    seconds = (times - times[0]) / 1e6
    xyz = np.asarray(recording.ego_xyz, np.float64)
    quat = np.asarray(recording.ego_quat_xyzw, np.float64)
    velocity = np.gradient(xyz, seconds, axis=0)
    acceleration = np.gradient(velocity, seconds, axis=0)
    yaw = np.unwrap(Rotation.from_quat(quat).as_euler("ZYX")[:, 0])
    speed = np.linalg.norm(velocity, axis=1)
    curvature = np.where(speed > 0.1, np.gradient(yaw, seconds) / np.maximum(speed, 0.1), 0.0)
    columns = {"timestamp": times}
    for names, values in (
        (("qx", "qy", "qz", "qw"), quat),
        (("x", "y", "z"), xyz),
        (("vx", "vy", "vz"), velocity),
        (("ax", "ay", "az"), acceleration),
        (("curvature",), curvature[:, None]),
    ):
        columns.update(zip(names, values.T, strict=True))
    return _parquet(columns)


def _parquet(columns: Mapping[str, np.ndarray]) -> bytes:
    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _zip(members: Mapping[str, str], clip_id: str, parts: Mapping[str, bytes]) -> bytes:
    """Stored, not compressed (video and parquet already are), and dated 1980 so that bytes do not vary."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(members[name].format(clip_id=clip_id), _ZIP_TIME), data)
    return buffer.getvalue()


def _check(recording: ClipRecording) -> None:
    for field_name, name in [
        ("clip_id", recording.clip_id),
        *(("extra_files", n) for n in recording.extra_files),
    ]:
        if not _SAFE_NAME.fullmatch(name):
            raise InputError(f"{field_name}: {name!r}, expected letters, digits, '.', '-' and '_' only")
    camera_features(list(recording.camera_frames))
    if set(recording.camera_frames) != set(recording.camera_timestamps_us):
        raise InputError("camera_timestamps_us: expected the same cameras as camera_frames")
    for camera, frames in recording.camera_frames.items():
        where = f"camera_frames[{camera}]"
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise InputError(
                f"{where}: {frames.dtype} {frames.shape}, expected uint8 (frames, height, width, 3)"
            )
        if 0 in frames.shape or frames.shape[1] % 2 or frames.shape[2] % 2:
            raise InputError(f"{where}: shape {frames.shape}, expected an even height and width")
        _check_times(recording.camera_timestamps_us[camera], f"camera_timestamps_us[{camera}]", len(frames))
    poses = len(recording.ego_timestamps_us)
    _check_times(recording.ego_timestamps_us, "ego_timestamps_us", poses)
    for name, array, width in (
        ("ego_xyz", recording.ego_xyz, 3),
        ("ego_quat_xyzw", recording.ego_quat_xyzw, 4),
    ):
        if np.shape(array) != (poses, width) or not np.isfinite(array).all():
            raise InputError(f"{name}: shape {np.shape(array)}, expected ({poses}, {width}) finite numbers")
    if not np.linalg.norm(recording.ego_quat_xyzw, axis=1).all():
        raise InputError("ego_quat_xyzw: holds a zero quaternion, expected rotations")


def _check_times(times: np.ndarray, name: str, count: int) -> None:
    if np.shape(times) != (count,) or not np.issubdtype(np.asarray(times).dtype, np.integer):
        raise InputError(f"{name}: shape {np.shape(times)}, expected ({count},) whole microseconds")
    if count < 2 or (np.diff(times) <= 0).any():
        raise InputError(f"{name}: expected two or more strictly increasing times")

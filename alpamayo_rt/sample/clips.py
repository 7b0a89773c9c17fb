# SPDX-License-Identifier: Apache-2.0
"""Clips of a local PhysicalAI-Autonomous-Vehicles copy, read through the dataset's own kit → `Sample`.

Source: the dataset's developer kit `physical_ai_av` 0.2.3 (its frame choice and its interpolation are used,
not repeated) and formulas.md, "Dataset sample". Times are the clip's own microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.cameras import DEFAULT_CAMERAS, camera_features
from alpamayo_rt.sample.dataset_layout import EGOMOTION, extra_file, find_revision, snapshot_folder
from alpamayo_rt.sample.offline_kit import brief, open_kit
from alpamayo_rt.sample.sample import FUTURE_POSES, HISTORY_POSES, STEP_SECONDS, Sample

DEFAULT_T0_US = 5_100_000
STEP_US = round(STEP_SECONDS * 1_000_000)
HISTORY_US = (HISTORY_POSES - 1) * STEP_US
FUTURE_US = FUTURE_POSES * STEP_US

WithFuture = bool | Literal["if available"]


@dataclass(frozen=True)
class Clip:
    """One moment of a recorded clip: what the model sees, and what the driver then did.

    `future_xyz` (64, 3) metres and `future_rot` (64, 3, 3), float32, at t0 + 0.1 … 6.4 s in the ego frame at
    t0, or both None; `frame_timestamps_us` (C, T) int64: when each frame of the sample was taken.
    """

    clip_id: str
    t0_us: int
    sample: Sample
    frame_timestamps_us: np.ndarray
    future_xyz: torch.Tensor | None
    future_rot: torch.Tensor | None


class ClipDataset:
    """A local copy of the dataset, read strictly offline.

    Args:
        dataset_root: a Hugging Face hub cache, the folder that holds
            `datasets--nvidia--PhysicalAI-Autonomous-Vehicles`.
        revision: which of several revisions to read; by default `main`, else the only one there.

    Raises:
        DatasetError: the folder, a usable snapshot or the kit is missing.
    """

    def __init__(self, dataset_root: str | Path, revision: str | None = None):
        self.root = Path(dataset_root).expanduser()
        self.revision = find_revision(self.root, revision)
        self._snapshot = snapshot_folder(self.root, self.revision)
        self._kit = open_kit(self.root, self.revision)

    def clip_ids(self, camera_indices: Sequence[int] = DEFAULT_CAMERAS) -> tuple[str, ...]:
        """List the clips whose poses and cameras are here, in the order of the dataset's index.

        The index names all clips of the dataset; a local copy usually holds the chunks of a few.
        """
        features = (*camera_features(camera_indices), EGOMOTION)
        index, presence = self._kit.clip_index, self._kit.feature_presence
        if any(feature not in self._kit.features.ALL for feature in features):
            return ()
        complete = {
            chunk for chunk in index["chunk"].unique() if all(self._chunk(chunk, f).is_file() for f in features)
        }
        here = index["chunk"].isin(complete)
        for feature in features:
            if feature in presence.columns:
                here &= presence[feature].reindex(index.index, fill_value=False)
        return tuple(str(clip_id) for clip_id in index.index[here])

    def metadata(self, clip_id: str) -> dict[str, str]:
        """What the dataset says of where and when a clip was recorded.

        Raises:
            InputError: the clip is unknown.
        """
        self._check_known(clip_id)
        table = self._kit.data_collection
        row = table.loc[clip_id].dropna() if clip_id in table.index else {}
        return {str(name): str(value) for name, value in row.items()}

    def t0_range_us(
        self,
        clip_id: str,
        camera_indices: Sequence[int] = DEFAULT_CAMERAS,
        num_frames: int = 4,
        with_future: WithFuture = True,
    ) -> tuple[int, int]:
        """The first and the last `t0_us` that `read` accepts for these arguments, in microseconds.

        Raises:
            InputError: as `read`, or the clip is too short for any t0.
        """
        with self._opened(clip_id, camera_features(camera_indices)) as (egomotion, videos):
            first, last = _t0_range_us(egomotion, videos, num_frames, with_future is True)
        if first > last:
            raise InputError(f"clip {clip_id}: too short, its frames and poses leave no room for a t0")
        return first, last

    def read(
        self,
        clip_id: str,
        t0_us: int = DEFAULT_T0_US,
        camera_indices: Sequence[int] = DEFAULT_CAMERAS,
        num_frames: int = 4,
        with_future: WithFuture = True,
    ) -> Clip:
        """Read what the model needs at one time of a clip.

        Args:
            clip_id: an id of the dataset's index.
            t0_us: the present, in the clip's microseconds.
            camera_indices: camera numbers 0 … 6; the sample keeps this order.
            num_frames: frames of each camera, at t0 − 0.1 s · (num_frames − 1) … t0, each the last one taken
                at or before its time.
            with_future: True: the 6.4 s after t0 must be there; False: they are not read; "if available":
                read where the clip is long enough, else None.

        Returns:
            The clip; its sample has frames (C, num_frames, 3, H, W) uint8, `history_xyz` (16, 3) metres and
            `history_rot` (16, 3, 3) at t0 − 1.5 … t0 in the ego frame at t0.

        Raises:
            InputError: unknown clip or camera, a time outside the clip, a missing or damaged file.
        """
        features = camera_features(camera_indices)
        if num_frames < 1:
            raise InputError(f"num_frames: {num_frames}, expected 1 or more")
        with self._opened(clip_id, features) as (egomotion, videos):
            first, last = _t0_range_us(egomotion, videos, num_frames, with_future is True)
            if not first <= t0_us <= last:
                raise InputError(_out_of_range(clip_id, t0_us, first, last, with_future is True))
            has_future = with_future is not False and t0_us + FUTURE_US <= int(egomotion.timestamps[-1])
            poses_us = t0_us + STEP_US * np.arange(1 - HISTORY_POSES, FUTURE_POSES * has_future + 1)
            xyz, rot = _guarded(lambda: _ego_poses(egomotion, poses_us), clip_id, EGOMOTION)
            images_us = t0_us + STEP_US * np.arange(1 - num_frames, 1)
            decoded = self._per_camera(
                lambda feature, video: video.decode_images_from_timestamps(images_us),
                clip_id,
                features,
                videos,
            )
        frames = [images for images, _ in decoded]
        if len({images.shape for images in frames}) > 1:
            sizes = ", ".join(f"{f} {i.shape[2]}×{i.shape[1]}" for f, i in zip(features, frames, strict=True))
            raise InputError(f"clip {clip_id}: its cameras differ in size, expected one size, got {sizes}")
        sample = Sample(
            torch.from_numpy(np.stack(frames).transpose(0, 1, 4, 2, 3).copy()),
            [int(camera) for camera in camera_indices],
            xyz[:HISTORY_POSES],
            rot[:HISTORY_POSES],
        )
        return Clip(
            clip_id=clip_id,
            t0_us=int(t0_us),
            sample=sample,
            frame_timestamps_us=np.stack([taken for _, taken in decoded]).astype(np.int64),
            future_xyz=xyz[HISTORY_POSES:] if has_future else None,
            future_rot=rot[HISTORY_POSES:] if has_future else None,
        )

    def read_extra(self, clip_id: str, name: str) -> bytes:
        """Read a file that the writer put beside a clip, such as `world.json`.

        Raises:
            InputError: the clip is unknown or has no such file.
        """
        self._check_known(clip_id)
        path = extra_file(self._snapshot, clip_id, name)
        if Path(name).name != name or not path.is_file():
            raise InputError(f"clip {clip_id}: no file {name!r} beside it")
        return path.read_bytes()

    def _check_known(self, clip_id: str) -> None:
        if clip_id not in self._kit.clip_index.index:
            raise InputError(f"clip_id: {clip_id!r} is not in the index of {self._snapshot}")

    def _chunk(self, chunk: int, feature: str) -> Path:
        return self._snapshot / self._kit.features.get_chunk_feature_filename(chunk, feature)

    @contextmanager
    def _opened(self, clip_id: str, features: Sequence[str]) -> Iterator[tuple[Any, list[Any]]]:
        """The kit's egomotion interpolator and its video readers, closed again at the end."""
        self._check_known(clip_id)
        chunk = self._kit.get_clip_chunk(clip_id)
        for feature in (EGOMOTION, *features):
            if feature not in self._kit.features.ALL or not self._chunk(chunk, feature).is_file():
                raise InputError(f"clip {clip_id}: {feature} of its chunk {chunk} is not in {self._snapshot}")
        egomotion = _guarded(lambda: self._kit.get_clip_feature(clip_id, EGOMOTION), clip_id, EGOMOTION)
        videos: list[Any] = []
        try:
            self._per_camera(
                lambda feature, _: videos.append((feature, self._kit.get_clip_feature(clip_id, feature))),
                clip_id,
                features,
                features,
            )
            by_feature = dict(videos)
            yield egomotion, [by_feature[feature] for feature in features]
        finally:
            for _, video in videos:
                video.close()

    def _per_camera(
        self, work: Callable[[str, Any], Any], clip_id: str, features: Sequence[str], items: Sequence[Any]
    ) -> list[Any]:
        # Reading and decoding release the interpreter lock, so a thread a camera is a camera's time in all.
        with ThreadPoolExecutor(len(features)) as pool:
            return list(pool.map(lambda f, item: _guarded(lambda: work(f, item), clip_id, f), features, items))


def _t0_range_us(egomotion: Any, videos: list[Any], num_frames: int, need_future: bool) -> tuple[int, int]:
    first = [int(egomotion.timestamps[0]) + HISTORY_US]
    last = [int(egomotion.timestamps[-1]) - FUTURE_US * need_future]
    first += [int(video.timestamps[0]) + (num_frames - 1) * STEP_US for video in videos]
    last += [int(video.timestamps[-1]) for video in videos]
    return max(first), min(last)


def _out_of_range(clip_id: str, t0_us: int, first: int, last: int, need_future: bool) -> str:
    if first > last:
        return f"clip {clip_id}: too short, its frames and poses leave no room for a t0 (t0_us: {t0_us})"
    needs = "frames and 1.5 s of poses before it" + (", 6.4 s of poses after it" if need_future else "")
    return f"t0_us: {t0_us} for clip {clip_id}, expected {first} to {last} ({needs})"


def _ego_poses(egomotion: Any, times_us: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (N, 3) and rotations (N, 3, 3), float32, in the ego frame at t0, the last of the history."""
    pose = egomotion(times_us).pose
    xyz, rot = pose.translation, pose.rotation.as_matrix()
    # In float64 to the end: world coordinates are large and what is kept of them is small.
    xyz0, rot0 = xyz[HISTORY_POSES - 1], rot[HISTORY_POSES - 1]
    local = (xyz - xyz0) @ rot0, rot0.T @ rot
    if not all(np.isfinite(part).all() for part in local):
        raise ValueError("a pose is not finite")
    return torch.from_numpy(local[0]).float(), torch.from_numpy(local[1]).float()


def _guarded(work: Callable[[], Any], clip_id: str, feature: str) -> Any:
    """Do what touches a clip's files, and say which one is damaged."""
    try:
        return work()
    except Exception as error:  # zip, parquet, FFmpeg, kit: what a damaged file raises has no end of types
        raise InputError(f"clip {clip_id}: {feature} cannot be read ({brief(error)})") from error

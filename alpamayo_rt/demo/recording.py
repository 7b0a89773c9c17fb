# SPDX-License-Identifier: Apache-2.0
"""Clips of the world, written in the dataset's layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from alpamayo_rt.demo.arrays import CAUSES
from alpamayo_rt.demo.world import World, WorldClip
from alpamayo_rt.sample.clip_writer import ClipRecording, DatasetWriter

TRUTH_FILE = "world.json"


def recording_of(clip: WorldClip, device: torch.device | str = "cpu") -> ClipRecording:
    """Draw all frames of a clip; its truth goes along as `world.json`."""
    frames = clip.frames(device)
    return ClipRecording(
        clip_id=clip.clip_id,
        camera_frames=frames,
        camera_timestamps_us=dict.fromkeys(frames, clip.timestamps_us),
        ego_timestamps_us=clip.timestamps_us,
        ego_xyz=clip.ego_xyz,
        ego_quat_xyzw=clip.ego_quat_xyzw,
        metadata={"cause": CAUSES[int(clip.scene.cause[int(clip.scene.t0)])]},
        extra_files={TRUTH_FILE: json.dumps(clip.truth, indent=1).encode()},
    )


def write_world(
    root: Path, clips: int, seed: int, split: str = "test", device: torch.device | str = "cpu"
) -> Iterator[tuple[str, bool]]:
    """Write the first clips of a world, one after the other, skipping those that are complete.

    Yields:
        (clip id, whether it was written now).
    """
    world = World(seed, split)
    writer = DatasetWriter(root)
    done = set(writer.written())
    for index in range(clips):
        name = world.clip_id(index)
        if name in done:
            yield name, False
        else:
            yield name, writer.write(recording_of(world.clip(index), device))

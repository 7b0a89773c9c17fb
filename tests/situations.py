# SPDX-License-Identifier: Apache-2.0
"""Where the recorded cases are, and samples that are quick to run."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from alpamayo_rt import Sample

_TESTS = Path(__file__).parent
SHIPPED = _TESTS / "data" / "alpamayo1_5"
SHIPPED_SUPER = _TESTS / "data" / "alpamayo2_super"
"""Configuration and tokenizer, no weights (`random_checkpoint.py` makes some)."""
GOLDEN = Path(os.environ.get("ALPAMAYO_RT_GOLDEN", _TESTS.parent.parent / "shared" / "golden"))

CASES = [
    ("alpamayo1_5", "action"),
    ("alpamayo1_5", "greedy6"),
    ("alpamayo1_5", "multiseq4"),
    ("alpamayo1_5", "nav_cfg"),
    ("alpamayo1_5", "preprocess_1080p"),
    ("alpamayo1_5", "vqa"),
    ("alpamayo_r1", "greedy6"),
    ("alpamayo_r1", "multiseq4"),
    ("alpamayo2_super", "action"),
    ("alpamayo2_super", "auto_labeling"),
    ("alpamayo2_super", "greedy6"),
    ("alpamayo2_super", "meta_action"),
    ("alpamayo2_super", "multiseq4"),
    ("alpamayo2_super", "nav"),
    ("alpamayo2_super", "nav_cfg"),
    ("alpamayo2_super", "preprocess_1080p"),
    ("alpamayo2_super", "vqa"),
]
DRIVING_CASES = ("greedy6", "multiseq4", "nav", "nav_cfg")


def straight_history(speed: float = 5.0, poses: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Constant speed along x, 10 Hz, at the origin at t0."""
    x = torch.arange(-(poses - 1), 1) * speed * 0.1
    return torch.stack([x, torch.zeros(poses), torch.zeros(poses)], -1), torch.eye(3).expand(poses, 3, 3)


def random_frames(cameras: int, frames: int, height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (cameras, frames, 3, height, width), generator=generator, dtype=torch.uint8)


def driving_sample(
    cameras: tuple[int, ...] = (0, 1), frames: int = 1, navigation: str | None = None, seed: int = 0
) -> Sample:
    xyz, rot = straight_history()
    pictures = random_frames(len(cameras), frames, seed=seed)
    return Sample(pictures, cameras, xyz, rot, navigation=navigation)


def question_sample(question: str = "Is the light green?") -> Sample:
    return Sample(random_frames(1, 1), (1,), question=question)

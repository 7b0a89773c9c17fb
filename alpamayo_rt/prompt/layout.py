# SPDX-License-Identifier: Apache-2.0
"""The chat layout: one text with one image placeholder an image."""

from __future__ import annotations

from collections.abc import Sequence

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.families import CAMERA_NAMES
from alpamayo_rt.prompt.tokenizer import IMAGE_PAD
from alpamayo_rt.tasks import Task

IMAGE = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"
HISTORY_START, HISTORY, HISTORY_END = "<|traj_history_start|>", "<|traj_history|>", "<|traj_history_end|>"
FUTURE_START, FUTURE, FUTURE_END = "<|traj_future_start|>", "<|traj_future|>", "<|traj_future_end|>"


def image_text(config: ModelConfig, cameras: Sequence[int], frames_per_camera: int) -> str:
    """Placeholders of all images, camera-major, with the family's labels."""
    parts = []
    for camera in cameras:
        if config.camera_labels:
            parts.append(f"{CAMERA_NAMES[camera]}: ")
        for frame in range(frames_per_camera):
            parts.append(f"frame {frame} {IMAGE}" if config.frame_labels else IMAGE)
    return "".join(parts)


def prompt_text(
    config: ModelConfig,
    cameras: Sequence[int],
    frames_per_camera: int,
    navigation: str | None = None,
    question: str | None = None,
    task: Task | None = None,
) -> str:
    """The whole prompt, up to and including the first token of the assistant's turn.

    Without a task a question is answered and anything else driven.
    """
    family = config.family
    if task is None:
        task = next(t for t in family.tasks if t.asks == (question is not None))
    user = image_text(config, cameras, frames_per_camera)
    if task.needs_history:
        user += f"{HISTORY_START}{HISTORY * config.history.num_tokens}{HISTORY_END}"
    if task.needs_future:
        user += f"{FUTURE_START}{FUTURE * config.future.num_tokens}{FUTURE_END}"
    if navigation is not None:
        assert family.navigation_marks is not None
        user += navigation.join(family.navigation_marks)
    if question is not None:
        # Where no marks stand around it, the reference strips it.
        user += (question if any(task.question_marks) else question.strip()).join(task.question_marks)
    user += task.instruction
    return (
        f"<|im_start|>system\n{family.system}<|im_end|>\n"
        f"<|im_start|>user\n{user}<|im_end|>\n"
        f"<|im_start|>assistant\n{task.start}"
    )

# SPDX-License-Identifier: Apache-2.0
"""The chat layout: one text with one image placeholder an image."""

from __future__ import annotations

from collections.abc import Sequence

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.families import CAMERA_NAMES
from alpamayo_rt.prompt.tokenizer import IMAGE_PAD

IMAGE = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"
HISTORY_START, HISTORY, HISTORY_END = "<|traj_history_start|>", "<|traj_history|>", "<|traj_history_end|>"
ROUTE_START, ROUTE_END = "<|route_start|>", "<|route_end|>"
QUESTION_START, QUESTION_END = "<|question_start|>", "<|question_end|>"


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
) -> str:
    """The whole prompt, up to and including the first token of the assistant's turn.

    With a question there is no history, no navigation and no instruction.
    """
    family = config.family
    user = image_text(config, cameras, frames_per_camera)
    if question is not None:
        user += f"{QUESTION_START}{question}{QUESTION_END}"
        start = family.answer_start
    else:
        user += f"{HISTORY_START}{HISTORY * config.history.num_tokens}{HISTORY_END}"
        if navigation is not None:
            user += f"{ROUTE_START}{navigation}{ROUTE_END}"
        user += family.instruction
        start = family.driving_start
    return (
        f"<|im_start|>system\n{family.system}<|im_end|>\n"
        f"<|im_start|>user\n{user}<|im_end|>\n"
        f"<|im_start|>assistant\n{start}"
    )

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt import Model
from alpamayo_rt.families import CAMERA_NAMES
from alpamayo_rt.prompt.layout import IMAGE, image_text, prompt_text

camera_subsets = st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True)


@given(camera_subsets, st.integers(1, 6))
def test_labels_name_cameras_in_the_order_given_and_frames_from_zero(
    model_1_5: Model, cameras: list[int], frames: int
) -> None:
    expected = ""
    for camera in cameras:
        expected += CAMERA_NAMES[camera] + ": "
        for frame in range(frames):
            expected += f"frame {frame} <|vision_start|><|image_pad|><|vision_end|>"
    assert image_text(model_1_5.config, cameras, frames) == expected


def test_default_cameras_read_as_in_the_model_card(model_1_5: Model) -> None:
    text = image_text(model_1_5.config, (0, 1, 2, 6), 1)
    assert text.replace(IMAGE, "I") == (
        "Front left camera: frame 0 IFront camera: frame 0 IFront right camera: frame 0 I"
        "Front telephoto camera: frame 0 I"
    )


@given(camera_subsets, st.integers(1, 6))
def test_r1_has_no_labels(model_r1: Model, cameras: list[int], frames: int) -> None:
    assert image_text(model_r1.config, cameras, frames) == IMAGE * (len(cameras) * frames)


@pytest.mark.parametrize(
    ("camera_labels", "frame_labels", "expected"),
    [(True, False, "Front camera: II"), (False, True, "frame 0 Iframe 1 I"), (False, False, "II")],
)
def test_labels_can_be_switched_off_one_by_one(
    camera_labels: bool, frame_labels: bool, expected: str, model_1_5: Model
) -> None:
    config = replace(model_1_5.config, camera_labels=camera_labels, frame_labels=frame_labels)
    assert image_text(config, (1,), 2).replace(IMAGE, "I") == expected


def test_driving_prompt(model: Model) -> None:
    images = image_text(model.config, (0, 1), 2)
    assert prompt_text(model.config, (0, 1), 2) == (
        "<|im_start|>system\nYou are a driving assistant that generates safe and accurate actions.<|im_end|>\n"
        f"<|im_start|>user\n{images}<|traj_history_start|>{'<|traj_history|>' * 48}<|traj_history_end|>"
        "output the chain-of-thought reasoning of the driving process, then output the future trajectory."
        "<|im_end|>\n<|im_start|>assistant\n<|cot_start|>"
    )


def test_navigation_stands_between_history_and_instruction(model_1_5: Model) -> None:
    plain = prompt_text(model_1_5.config, (1,), 1)
    guided = prompt_text(model_1_5.config, (1,), 1, navigation="Turn left")
    assert guided == plain.replace(
        "<|traj_history_end|>", "<|traj_history_end|><|route_start|>Turn left<|route_end|>"
    )


def test_question_replaces_history_and_instruction(model_1_5: Model) -> None:
    images = image_text(model_1_5.config, (1,), 1)
    text = prompt_text(model_1_5.config, (1,), 1, question="Why?")
    assert text.split("<|im_start|>user\n")[1] == (
        f"{images}<|question_start|>Why?<|question_end|><|im_end|>\n<|im_start|>assistant\n<|answer_start|>"
    )

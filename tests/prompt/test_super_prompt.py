# SPDX-License-Identifier: Apache-2.0
"""The layout of Alpamayo 2 Super: every task's text, its tokens, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from situations import driving_sample, random_frames, straight_history

from alpamayo_rt import InputError, Model, Sample
from alpamayo_rt.prompt.future import future_bins
from alpamayo_rt.prompt.history import history_bins
from alpamayo_rt.prompt.prompt import Prompt, prepare_images, shared_length

HISTORY = "<|traj_history_start|>" + 45 * "<|traj_history|>" + "<|traj_history_end|>"
FUTURE = "<|traj_future_start|>" + 128 * "<|traj_future|>" + "<|traj_future_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
DRIVE = "output the chain-of-thought reasoning of the driving process, then output "


def sample(**more: object) -> Sample:
    xyz, rot = straight_history()
    return Sample(random_frames(2, 1), (1, 6), xyz, rot, **more)  # type: ignore[arg-type]


def future() -> dict[str, torch.Tensor]:
    x = torch.arange(1, 65) * 0.5
    return {
        "ego_future_xyz": torch.stack([x, 0 * x, 0 * x], -1),
        "ego_future_rot": torch.eye(3).expand(64, 3, 3),
    }


def prompt(model: Model, sample: Sample) -> Prompt:
    return model.prompt_of(sample, prepare_images(sample, model.config, torch.device("cpu")))


@pytest.mark.parametrize(
    ("more", "behind_the_images"),
    [
        ({}, f"{HISTORY}{DRIVE}the future trajectory."),
        ({"navigation": "Turn left in 40m"}, f"{HISTORY}Turn left in 40m{DRIVE}the future trajectory."),
        ({"question": " Why? "}, "Why?"),
        ({"task": "vqa", "question": "Why?"}, "Why?"),
        ({"task": "grounding", "question": "Find it."}, "Find it."),
        ({"task": "meta_action"}, f"{HISTORY}{DRIVE}meta actions, then output the future trajectory."),
        (
            {"task": "auto_labeling", **future()},
            f"{HISTORY}{FUTURE}output a comprehensive analysis of the driving scene in JSON format.",
        ),
    ],
)
def test_text_of_each_task(more: dict, behind_the_images: str, model_2_super: Model) -> None:
    assert prompt(model_2_super, sample(**more)).text == (
        "<|im_start|>system\nYou are a driving assistant that generates safe and accurate actions.<|im_end|>\n"
        f"<|im_start|>user\nFront camera: frame 0 {IMAGE}Front telephoto camera: frame 0 {IMAGE}"
        f"{behind_the_images}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_history_leaves_the_first_displacement_out(model_2_super: Model) -> None:
    config, asked = model_2_super.config.history, sample()
    assert asked.history_xyz is not None
    bins = history_bins(asked.history_xyz, config)
    assert len(bins) == config.num_tokens == 45
    moved = history_bins(asked.history_xyz + torch.tensor([3.0, 1.0, 0.0]), config)
    assert torch.equal(bins, moved)  # where the first pose is does not matter
    ids = prompt(model_2_super, asked).ids
    placed = ids[(ids >= config.first_id) & (ids < config.first_id + config.num_bins)]
    assert torch.equal(placed, bins + config.first_id)


def test_future_tokens_are_the_binned_inverse(model_2_super: Model) -> None:
    config, asked = model_2_super.config.future, sample(task="auto_labeling", **future())
    made = prompt(model_2_super, asked)
    where = made.text_ids == model_2_super.tokenizer.future
    assert int(where.sum()) == 128
    actions = model_2_super.unicycle.inverse(
        asked.history_xyz, asked.history_rot, asked.ego_future_xyz, asked.ego_future_rot
    )  # type: ignore[arg-type]
    assert torch.equal(made.ids[where], future_bins(actions, config) + config.first_id)


def test_bins_of_the_past_come_before_those_of_the_future(model_2_super: Model) -> None:
    config = model_2_super.config
    assert config.traj_token_start == config.history.first_id
    assert config.future.first_id == config.history.first_id + config.history.num_bins
    assert model_2_super.tokenizer.id("<i0>") == config.history.first_id


def test_prompts_share_all_before_the_navigation(model_2_super: Model) -> None:
    plain = prompt(model_2_super, sample())
    guided = prompt(model_2_super, sample(navigation="Turn left in 40m"))
    n = shared_length(guided, plain)
    assert torch.equal(guided.ids[:n], plain.ids[:n])
    assert guided.ids[n] != plain.ids[n]
    assert int(guided.image_slots.max()) < n
    assert plain.ids[n - 1] == model_2_super.tokenizer.id("<|traj_history_end|>")
    assert shared_length(plain, plain) == len(plain)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": "vqa"}, "question: missing, expected one for task vqa"),
        ({"task": "grounding"}, "question: missing, expected one for task grounding"),
        ({"task": "trajectory", "question": "Why?"}, "question: given with task trajectory, expected none"),
        ({"task": "meta_action", "question": "Why?"}, "question: given with task meta_action"),
        ({"task": "meta_action", "navigation": "Left"}, "navigation: given with task meta_action"),
        ({"task": "auto_labeling"}, "ego_future_xyz: missing, expected 64 poses for task auto_labeling"),
        ({"navigation": "a <|traj_future_start|>"}, "navigation: holds the model's own token"),
    ],
)
def test_what_a_task_has_no_place_for(more: dict, message: str, model_2_super: Model) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        prompt(model_2_super, sample(**more))


def test_a_task_without_a_history(model_2_super: Model) -> None:
    with pytest.raises(InputError, match="history_xyz: missing"):
        prompt(model_2_super, Sample(random_frames(1, 1), (1,), task="meta_action"))
    assert len(prompt(model_2_super, Sample(random_frames(1, 1), (1,), question="Why?"))) > 0


def test_other_families_name_their_tasks(model_1_5: Model) -> None:
    wrong = driving_sample().replaced(task="meta_action")
    with pytest.raises(
        InputError, match=r"task: Alpamayo 1\.5 has no meta_action, expected one of trajectory, vqa"
    ):
        model_1_5.infer(wrong)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "drive"}, "task: 'drive', expected one of trajectory, vqa"),
        ({"task": 3}, "task: 3, expected one of"),
        ({"ego_future_xyz": torch.zeros(64, 3)}, "ego_future_rot: missing, expected both"),
        ({"ego_future_xyz": torch.zeros(63, 3)}, r"ego_future_xyz: shape \(63, 3\), expected \(64, 3\)"),
        (future() | {"ego_future_rot": torch.ones(64, 3, 3)}, "ego_future_rot: not rotations"),
    ],
)
def test_samples_are_checked(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample(**given)

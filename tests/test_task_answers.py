# SPDX-License-Identifier: Apache-2.0
"""Every task from sample to result on random weights; texts that matter are put into the model's mouth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from situations import random_frames, straight_history

from alpamayo_rt import Model, Sample
from alpamayo_rt.answers import AutoLabel, Box, MetaAction
from alpamayo_rt.engine.base import Engine, Rollout

SHORT: dict[str, Any] = {"temperature": 0, "max_generate_length": 6}
FUTURE = {
    "ego_future_xyz": torch.stack([torch.arange(1, 65) * 0.5, torch.zeros(64), torch.zeros(64)], -1),
    "ego_future_rot": torch.eye(3).expand(64, 3, 3),
}


def sample(task: str, question: str | None = None, **more: Any) -> Sample:
    xyz, rot = straight_history()
    return Sample(random_frames(2, 1, 96, 160), (1, 6), xyz, rot, question=question, task=task, **more)


SAMPLES = {
    "vqa": lambda: sample("vqa", "Is it clear?"),
    "grounding": lambda: sample("grounding", "Find the lead vehicle and return its bounding box in JSON."),
    "meta_action": lambda: sample("meta_action"),
    "auto_labeling": lambda: sample("auto_labeling", **FUTURE),
}


@pytest.fixture
def says(model_2_super: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[int]]:
    """Makes the model say a text, whatever its weights would."""

    def say(text: str) -> list[int]:
        tokens = model_2_super.tokenizer.encode(text)

        def reason(self: Engine, *args: object, **more: object) -> Rollout:
            return Rollout([tokens], ["no_trajectory_token"])

        monkeypatch.setattr(type(model_2_super.engine), "reason", reason)
        return tokens

    return say


@pytest.mark.parametrize("task", SAMPLES)
def test_a_task_in_words_gives_text_and_no_trajectories(task: str, model_2_super: Model) -> None:
    result = model_2_super.infer(SAMPLES[task](), **SHORT)
    assert result.task == task
    assert isinstance(result.answer, str)
    assert result.trajectories is result.rotations is result.actions is None
    assert len(result.generated_token_ids) == 1
    assert 1 <= len(result.generated_token_ids[0]) <= 6
    assert set(result.milliseconds) == {"preprocess", "vision", "prefill", "decode", "total"}
    config = model_2_super.config
    bins = range(config.traj_token_start, config.traj_token_start + config.traj_vocab_size)
    assert not set(bins) & set(result.generated_token_ids[0])
    # Random weights write no JSON and no axes: the text is there and so is the reason.
    assert (result.reading.unparsed is None) == (task == "vqa")
    assert result.to_json()["answer"] == result.answer
    assert len(result.reasoning) == (task == "meta_action")


def test_meta_actions_are_typed(model_2_super: Model, says: Callable[[str], list[int]]) -> None:
    said = "Keep lane.\nLongitudinal: Maintain Speed.\nLateral: Go Straight.\nLane: Lane Keep."
    tokens = says(f"{said}<|traj_future_start|>rest<|im_end|>")
    result = model_2_super.infer(SAMPLES["meta_action"]())
    assert result.generated_token_ids == [tokens]
    assert result.answer == said
    assert result.reasoning == ["Keep lane."]
    assert result.reading.meta_action == MetaAction("Maintain Speed", "Go Straight", "Lane Keep")
    assert result.stop_reasons == ["finished"]


def test_auto_labels_are_typed(model_2_super: Model, says: Callable[[str], list[int]]) -> None:
    says('{"chain_of_causation": "Keep lane"}<|im_end|>')
    result = model_2_super.infer(SAMPLES["auto_labeling"]())
    assert result.reading.auto_label == AutoLabel(chain_of_causation="Keep lane")
    assert result.reasoning == []


def test_boxes_are_pixels_of_the_frames_given(model_2_super: Model, says: Callable[[str], list[int]]) -> None:
    says('[{"bbox_2d": [500, 250, 1000, 1000], "label": "car"}]<|im_end|>')
    result = model_2_super.infer(SAMPLES["grounding"]())
    assert result.reading.boxes == (Box(1, "car", (80.0, 24.0, 160.0, 96.0)),)
    assert result.to_json()["boxes"] == [{"camera": 1, "label": "car", "box": [80.0, 24.0, 160.0, 96.0]}]


def test_driving_masks_bins_and_the_texts_end(model_2_super: Model) -> None:
    config, family = model_2_super.config, model_2_super.config.family
    first, end = config.traj_token_start, config.language.eos_token_id
    rules = {task.name: model_2_super.stop_rule(task) for task in family.tasks}
    assert rules["trajectory"].masked == ((first, first + 4000), (end, end + 1))
    assert all(rules[name].masked == ((first, first + 4000),) for name in SAMPLES)
    closing = model_2_super.tokenizer.future_start
    assert {name for name, rule in rules.items() if rule.closing == closing} == {"trajectory", "meta_action"}
    assert all(rule.end == end for rule in rules.values())


def test_the_limit_is_the_tasks_own_where_nothing_is_said(
    model_2_super: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    reason = type(model_2_super.engine).reason

    def watched(
        self: Engine, cache: Any, logits: Any, sampling: Any, rule: Any, uniforms: Any, **more: Any
    ) -> Any:
        limits.append(sampling.max_generate_length)
        assert uniforms.shape[1] == sampling.max_generate_length
        return reason(self, cache, logits, sampling, rule, uniforms[:, :1], **more)

    monkeypatch.setattr(type(model_2_super.engine), "reason", watched)
    monkeypatch.setattr("alpamayo_rt.engine.base.choose", lambda rows, *rest: torch.full((len(rows),), 420))
    for make in SAMPLES.values():
        model_2_super.infer(make())
    assert limits == [1024, 1024, 512, 1024]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (" stop now <|traj_future_start|>go", "stop now"),
        ("stop<|im_end|>go<|traj_future_start|>", "stop"),
        ("a<|cot_end|>b<|endoftext|>c", "a<|cot_end|>b<|endoftext|>c"),
        ("<|im_end|>x", ""),
    ],
)
def test_a_text_is_cut_where_it_first_ends(said: str, text: str, model_2_super: Model) -> None:
    for task in model_2_super.config.family.tasks:
        assert model_2_super.text_of(model_2_super.tokenizer.encode(said), task) == text


def test_driving_gives_candidates_with_and_without_guidance(model_2_super: Model) -> None:
    xyz, rot = straight_history()
    turn = Sample(random_frames(2, 1), (1, 6), xyz, rot, navigation="Turn left in 40m")
    settings = SHORT | {"num_candidates": 2, "num_diffusion_steps": 2}
    plain = model_2_super.infer(turn, **settings)
    one = model_2_super.infer(turn, guidance_weight=1.0, **settings)
    pushed = model_2_super.infer(turn, guidance_weight=3.0, **settings)
    assert plain.actions is not None
    assert plain.actions.shape == (2, 64, 2)
    torch.testing.assert_close(one.actions, plain.actions, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pushed.actions, plain.actions, atol=1e-3)  # type: ignore[arg-type]
    assert "task" not in plain.to_json()
    # What the release guides with is known, and nothing is guided unless asked.
    assert model_2_super.config.guidance_weight == 3.0

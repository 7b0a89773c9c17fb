# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from situations import driving_sample, question_sample, random_frames, straight_history

from alpamayo_rt import InputError, Model, Sample
from alpamayo_rt.prompt.history import history_bins
from alpamayo_rt.prompt.prompt import Prompt, build_prompt, prepare_images
from alpamayo_rt.sample.sample import PreparedImages

CPU = torch.device("cpu")


def prompt_of(model: Model, sample: Sample) -> Prompt:
    return build_prompt(sample, prepare_images(sample, model.config, CPU), model.config, model.tokenizer)


def test_history_tokens_replace_their_placeholders_and_nothing_else(model: Model) -> None:
    sample = driving_sample()
    prompt = prompt_of(model, sample)
    changed = prompt.ids != prompt.text_ids
    assert torch.equal(changed, prompt.text_ids == model.tokenizer.history)
    assert sample.history_xyz is not None
    bins = history_bins(sample.history_xyz, model.config.history)
    assert torch.equal(prompt.ids[changed], bins + model.config.traj_token_start + 3000)


def test_every_image_has_its_tokens_between_its_markers(model: Model) -> None:
    prompt = prompt_of(model, driving_sample((0, 1, 2), 2))
    ids, tokenizer = prompt.text_ids.tolist(), model.tokenizer
    starts = [i for i, t in enumerate(ids) if t == tokenizer.id("<|vision_start|>")]
    ends = [i for i, t in enumerate(ids) if t == tokenizer.id("<|vision_end|>")]
    assert len(starts) == 6
    assert [e - s - 1 for s, e in zip(starts, ends, strict=True)] == [2 * 3] * 6  # 4 × 6 patches, merged
    slots = [i for s, e in zip(starts, ends, strict=True) for i in range(s + 1, e)]
    assert prompt.image_slots.tolist() == slots


def test_images_of_different_sizes_get_different_spans(model: Model) -> None:
    grid = torch.tensor([[1, 4, 6], [1, 2, 8]])
    prepared = PreparedImages(torch.zeros(24 + 16, 1536), grid)
    xyz, rot = straight_history()
    prompt = prompt_of(model, Sample(None, (0, 1), xyz, rot, prepared=prepared))
    assert len(prompt.image_slots) == 6 + 4
    assert prompt.rope_delta == -(6 - 3) - (4 - 4)


def test_positions_belong_to_the_ids(model: Model) -> None:
    prompt = prompt_of(model, driving_sample((0, 1), 2))
    assert prompt.positions.shape == (3, len(prompt))
    assert prompt.rope_delta == int(prompt.positions[:, -1].max()) + 1 - len(prompt)


def test_question_needs_no_history(model_1_5: Model) -> None:
    prompt = prompt_of(model_1_5, question_sample())
    assert torch.equal(prompt.ids, prompt.text_ids)
    assert model_1_5.tokenizer.history not in prompt.ids


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"navigation": "left", "question": "why?"}, "question: given with navigation"),
        ({"navigation": "<|route_end|>drive"}, r"navigation: holds the model's own token <\|route_end\|>"),
        ({"question": "is <i5> good?"}, "question: holds the model's own token <i5>"),
        ({"history_xyz": None, "history_rot": None}, "history_xyz: missing"),
    ],
)
def test_what_has_no_place_in_the_prompt_is_refused(
    fields: dict[str, str], message: str, model_1_5: Model
) -> None:
    xyz, rot = straight_history()
    sample = Sample(random_frames(1, 1), (1,), **({"history_xyz": xyz, "history_rot": rot} | fields))
    with pytest.raises(InputError, match=message):
        prompt_of(model_1_5, sample)


@pytest.mark.parametrize("field", ["navigation", "question"])
def test_r1_takes_neither_navigation_nor_question(field: str, model_r1: Model) -> None:
    xyz, rot = straight_history()
    sample = Sample(random_frames(1, 1), (1,), xyz, rot, **{field: "left"})
    with pytest.raises(InputError, match="Alpamayo R1"):
        prompt_of(model_r1, sample)

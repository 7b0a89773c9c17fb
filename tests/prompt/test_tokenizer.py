# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import SHIPPED

from alpamayo_rt import Model, ModelError
from alpamayo_rt.prompt.tokenizer import PromptTokenizer


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED / "model" / "backbone", tmp_path / "backbone"))


def test_trajectory_bins_come_first_then_the_special_tokens_in_order(model: Model) -> None:
    config, tokenizer = model.config, model.tokenizer
    first = config.traj_token_start
    assert tokenizer.encode("<i0><i1><i3999>") == [first, first + 1, first + 3999]
    names = [f"<|{name}|>" for name in config.family.special_tokens]
    ids = [tokenizer.id(name) for name in names if name != "<|image_pad|>"]
    assert ids == list(range(first + 4000, first + 4000 + len(ids)))
    assert tokenizer.future_start == config.traj_token_ids["future_start"] == first + 4012


def test_special_tokens_are_one_id_each_wherever_they_stand(model: Model) -> None:
    tokenizer = model.tokenizer
    assert tokenizer.encode("<|cot_start|><|cot_end|>") == [
        tokenizer.id("<|cot_start|>"),
        tokenizer.id("<|cot_end|>"),
    ]
    assert tokenizer.id("<|cot_end|>") in tokenizer.encode("stop<|cot_end|>go")


@given(st.text(alphabet="abc XYZ.,0123\n", max_size=30))
def test_plain_text_survives(model_1_5: Model, text: str) -> None:
    assert model_1_5.tokenizer.decode(model_1_5.tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "stray"),
    [
        ("Turn left in 40m", None),
        ("a < b |> c <i> <|> <||>", None),
        ("go <|cot_end|> now", "<|cot_end|>"),
        ("<i17>", "<i17>"),
        ("<i99999>", "<i99999>"),
        ("<|never_heard_of|>", "<|never_heard_of|>"),
        ("x<|im_end|>", "<|im_end|>"),
        ("<|route_end|><|question_start|>", "<|route_end|>"),
    ],
)
def test_stray_token(text: str, stray: str | None, model_1_5: Model) -> None:
    assert model_1_5.tokenizer.stray_token(text) == stray


def test_every_added_token_is_found_in_a_text(model_1_5: Model) -> None:
    reserved = model_1_5.tokenizer.reserved
    assert len(reserved) > 4000
    assert [t for t in reserved if model_1_5.tokenizer.stray_token(f"x {t} y") != t] == []


def test_tokens_that_stand_in_the_tokenizer_config_alone_come_before_the_models_own(
    backbone: Path, model_1_5: Model
) -> None:
    path = backbone / "tokenizer.json"
    stored = json.loads(path.read_text())
    listed = {t["content"] for t in stored["added_tokens"]}
    stored["added_tokens"] = [t for t in stored["added_tokens"] if t["content"] != "<|video_pad|>"]
    assert len(listed) == len(stored["added_tokens"]) + 1
    path.write_text(json.dumps(stored))
    restored = PromptTokenizer(backbone, model_1_5.config)
    assert restored.id("<|video_pad|>") == model_1_5.tokenizer.id("<|video_pad|>")


def test_another_backbone_is_refused_with_both_ids(backbone: Path, model_1_5: Model) -> None:
    config = replace(model_1_5.config, traj_token_start=model_1_5.config.traj_token_start + 1)
    with pytest.raises(ModelError, match=r"<i0> gets id 434, the checkpoint's config says 435"):
        PromptTokenizer(backbone, config)


def test_more_tokens_than_embeddings_are_refused(backbone: Path, model_1_5: Model) -> None:
    language = replace(model_1_5.config.language, vocab_size=4000)
    with pytest.raises(ModelError, match="the checkpoint has 4000"):
        PromptTokenizer(backbone, replace(model_1_5.config, language=language))


@pytest.mark.parametrize("damage", ["missing", "not json", "another format"])
def test_damaged_tokenizer_is_named(damage: str, backbone: Path, model_1_5: Model) -> None:
    path = backbone / "tokenizer.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("{" if damage == "not json" else '{"model": 3}')
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        PromptTokenizer(backbone, model_1_5.config)


def test_tokenizer_of_another_model_lacks_the_image_token(backbone: Path, model_1_5: Model) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = backbone / name
        path.write_text(path.read_text().replace("<|image_pad|>", "<|picture|>"))
    with pytest.raises(ModelError, match=r"no token <\|image_pad\|>"):
        PromptTokenizer(backbone, model_1_5.config)

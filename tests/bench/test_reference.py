# SPDX-License-Identifier: Apache-2.0
"""What the public reference is given, and what is said where it cannot run; running it needs a checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from jinja2 import Environment
from tokenizers import Tokenizer

from alpamayo_rt import EngineError
from alpamayo_rt.bench.reference import build_reference
from alpamayo_rt.bench.reference_backbone import CHAT_TEMPLATE, checkpoint_config, write_backbone
from alpamayo_rt.bench.released import find_released, released_config, released_json
from alpamayo_rt.bench.weights import RandomWeights

CPU = torch.device("cpu")
FAMILY, SIZES = find_released("alpamayo1_5")
RAW, BACKBONE = released_json(FAMILY, SIZES)


def build(checkout: Path) -> None:
    weights = RandomWeights(released_config(FAMILY, SIZES), CPU)
    build_reference(checkout, FAMILY, RAW, BACKBONE, weights, CPU, 6)


def test_backbone_files(tmp_path: Path) -> None:
    write_backbone(tmp_path, BACKBONE)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["num_hidden_layers"] == 36
    assert config["vision_config"]["deepstack_visual_indexes"] == [8, 16, 24]
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.id_to_token(config["image_token_id"]) == "<|image_pad|>"
    assert tokenizer.id_to_token(config["text_config"]["eos_token_id"]) == "<|im_end|>"
    for name in ("tokenizer_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        assert json.loads((tmp_path / name).read_text())


def test_chat_template() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "frame 0 "}, {"type": "image", "image": None}]},
        {"role": "assistant", "content": [{"type": "text", "text": "<|cot_start|>"}]},
    ]
    assert Environment().from_string(CHAT_TEMPLATE).render(messages=messages) == (
        "<|im_start|>user\nframe 0 <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\n<|cot_start|><|im_end|>\n"
    )


def test_config_names_the_classes_of_its_package() -> None:
    config = checkpoint_config("package", RAW, "folder")
    assert config["vlm_name_or_path"] == "folder"
    assert config["action_space_cfg"]["_target_"].startswith("package.action_space.")
    assert config["traj_tokenizer_cfg"]["num_bins"] == 3000
    assert config["expert_cfg"]["hidden_size"] == 2048
    assert "_target_" not in RAW["action_space_cfg"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="has no src/alpamayo1_5, expected a checkout"):
        build(tmp_path)
    (tmp_path / "src" / "alpamayo1_5").mkdir(parents=True)
    with pytest.raises(EngineError, match="its requirements are not all installed"):
        build(tmp_path)

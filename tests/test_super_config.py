# SPDX-License-Identifier: Apache-2.0
"""Alpamayo 2 Super's config.json, which holds every part in full; shards; and what is wrong with some."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import edit_json
from random_checkpoint import tensor_shapes
from situations import SHIPPED_SUPER

from alpamayo_rt import Model, ModelError, load
from alpamayo_rt.config import parse_model_config, read_json
from alpamayo_rt.engine.bindings import part_bindings
from alpamayo_rt.inspection import CARDS_GIB, inspect_checkpoint, memory_gib
from alpamayo_rt.model.network import Network

FOLDER = SHIPPED_SUPER / "model" / "checkpoint"
Change = Callable[[dict[str, Any]], object]


def parsed(change: Change = lambda raw: None) -> Any:
    raw = read_json(FOLDER / "config.json")
    change(raw)
    return parse_model_config(FOLDER, raw, {})


def test_every_part_is_read_from_its_own_place() -> None:
    config = parsed()
    assert (config.language.hidden_size, config.expert.hidden_size) == (128, 96)
    assert config.language.num_heads * config.language.head_dim != config.language.hidden_size
    assert config.language.vocab_size == 4480
    assert (config.history.first_id, config.future.first_id, config.traj_token_start) == (434, 1434, 434)
    assert config.traj_token_ids["history"] == 4449
    assert config.action_space.still_below == 0.6
    assert (config.guidance_weight, config.num_diffusion_steps) == (3.0, 10)


def test_expert_overrides_and_layer_choices_do_nothing() -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["expert_config"]["expert_update_cfg"] = {"hidden_size": 5}
        raw["expert_config"]["cache_layer_indices"] = [0]
        raw["token_layout"] = "anything"

    assert parsed(change) == parsed()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("vlm_config"), r"vlm_config: None, expected an object"),
        (
            lambda c: c["expert_config"].pop("llm_config"),
            r"expert_config\.llm_config: None, expected an object",
        ),
        (lambda c: c["traj_ids"].pop("history_id0"), r"traj_ids\.history_id0: missing"),
        (lambda c: c.update(frame_label="time"), r"frame_label: 'time' is not supported"),
        (lambda c: c["expert_config"]["diffusion_cfg"].update(int_method="heun"), "int_method: 'heun'"),
        (
            lambda c: c["expert_config"]["diffusion_cfg"].update(inference_guidance_weight="much"),
            "inference_guidance_weight: 'much', expected a number",
        ),
        (
            lambda c: c["future_traj_tokenizer_cfg"]["action_space_cfg"].update(dt=0.2),
            "future_traj_tokenizer_cfg.action_space_cfg: differs from the expert's",
        ),
        (
            lambda c: c["expert_config"]["llm_config"].update(num_hidden_layers=2),
            "the expert's num_layers 2 differs from the language model's 4",
        ),
    ],
)
def test_what_is_wrong_is_named(change: Change, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parsed(change)


def test_added_tokens_are_those_of_the_config_whether_in_the_tokenizer_or_not(
    super_folder: Path, model_2_super: Model, tmp_path: Path
) -> None:
    folder = shutil.copytree(super_folder, tmp_path / "checkpoint")
    model_2_super.tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    text = "<|traj_history_start|><i0><i3999><|traj_future|><|answer_end|>Keep lane"
    own = load(str(folder), "eager", "fp32", "cpu").tokenizer
    assert own.encode(text) == model_2_super.tokenizer.encode(text)
    edit_json(folder / "config.json", lambda raw: raw["traj_ids"].update(future_start=4400))
    with pytest.raises(
        ModelError, match=r"<\|traj_future_start\|> gets id 4446, the checkpoint's config says 4400"
    ):
        load(str(folder), "eager", "fp32", "cpu")


def test_tensors_have_the_released_names() -> None:
    names = set(tensor_shapes(parsed()))
    assert {
        "vlm.model.visual.patch_embed.proj.weight",
        "vlm.model.language_model.layers.3.mlp.up_proj.weight",
        "vlm.lm_head.weight",
        "expert.expert.layers.0.self_attn.q_proj.weight",
        "expert.expert.norm.weight",
        *(f"expert.action_in_proj.encoder.trunk.{i}.weight" for i in (0, 2, 3, 5, 6)),
        "expert.action_in_proj.norm.bias",
        "expert.action_out_proj.bias",
    } <= names
    assert all(name.startswith(("vlm.", "expert.")) for name in names)


def test_progress_names_every_shard(super_folder: Path) -> None:
    lines: list[str] = []
    load(str(super_folder), "eager", "bf16", "cpu", progress=lines.append)
    assert lines == [f"loading model-{i:05}-of-00005.safetensors ({i} of 5)" for i in range(1, 6)]


# What alpamayo2_super.md gives of the released sizes.
RELEASED = {
    "language": {"num_layers": 64, "hidden_size": 5120, "num_heads": 64, "intermediate_size": 25600},
    "expert": {"num_layers": 64, "hidden_size": 1536, "num_heads": 16, "intermediate_size": 6144},
}


def released_config() -> Any:
    config = parsed()
    shared = {"num_kv_heads": 8, "head_dim": 128, "mrope_section": (24, 20, 20), "vocab_size": 155_776}
    parts = {name: replace(getattr(config, name), **sizes, **shared) for name, sizes in RELEASED.items()}
    vision = replace(
        config.vision, depth=27, hidden_size=1152, num_heads=16, intermediate_size=4304,
        out_hidden_size=5120, deepstack_layers=(8, 16, 24),
    )  # fmt: skip
    return replace(config, vision=vision, action_in=replace(config.action_in, hidden_size=512), **parts)


def test_fused_contract_of_the_released_sizes_has_128_cache_entries() -> None:
    bindings = {
        b.name: b.shape for b in part_bindings(released_config(), "expert", "fused", torch.float16).inputs
    }
    assert bindings["kv_cache"] == (128, "B", 8, "S", 128)


def test_what_fits_where_at_the_released_sizes() -> None:
    config = released_config()
    with torch.device("meta"):
        network = Network(config)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == 35_813_934_322
    memory = memory_gib(config, network, None, parameters, 24 * 180 + 260)
    assert memory["bf16"]["weights"] == pytest.approx(66.7, abs=0.05)
    assert memory["bf16"]["cache"] == pytest.approx(1.2, abs=0.1)
    fits = {name: [card for card, how in memory[name]["fits"].items() if how] for name in memory}
    assert fits["fp32"] == []
    assert fits["bf16"] == ["80 GB"]
    assert fits["fp8"] == ["80 GB", "48 GB"]
    assert fits["int4"] == ["80 GB", "48 GB", "40 GB"]
    assert memory["fp8"]["guided_total"] < 44
    for needed in memory.values():
        assert list(needed["fits"]) == list(CARDS_GIB)
        assert needed["guided_total"] == pytest.approx(needed["total"] + needed["cache"], abs=2e-3)


def test_inspect_says_what_can_be_asked(model_2_super: Model) -> None:
    found = inspect_checkpoint(model_2_super.checkpoint)
    assert list(found["tasks"]) == ["trajectory", "vqa", "grounding", "meta_action", "auto_labeling"]
    assert found["guidance_weight"] == 3.0
    assert found["default_input"]["images"] == "6 × 4 of 1080×1920"

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import copied, edit_json
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import SHIPPED

from alpamayo_rt import Model, ModelError
from alpamayo_rt.checkpoint import open_checkpoint
from alpamayo_rt.config import parse_model_config
from alpamayo_rt.loading import load

CHECKPOINT = SHIPPED / "model" / "checkpoint"
RAW = json.loads((CHECKPOINT / "config.json").read_text())
BACKBONE = json.loads((SHIPPED / "model" / "backbone" / "config.json").read_text())

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied(tmp_path)


def test_fields_are_read_from_both_files(model_1_5: Model) -> None:
    c = model_1_5.config
    assert (c.language.num_layers, c.language.hidden_size, c.language.vocab_size) == (4, 128, 4462)
    # the backbone's text config with expert_cfg over it
    assert (c.expert.num_layers, c.expert.hidden_size, c.expert.intermediate_size) == (4, 96, 192)
    assert (c.expert.rope_theta, c.expert.mrope_section) == (c.language.rope_theta, c.language.mrope_section)
    assert c.vision.deepstack_layers == (0, 1, 2)
    assert c.history.first_id == c.traj_token_start + 3000
    assert (c.history.low, c.history.high) == ((-4, -4, -10), (4, 4, 10))
    assert (c.min_pixels, c.max_pixels, c.num_diffusion_steps) == (6144, 16384, 10)
    assert c.language.eos_token_id == 420


def test_absent_optional_fields_have_the_released_values() -> None:
    raw = copy.deepcopy(RAW)
    for name in ("min_pixels", "max_pixels", "include_camera_ids", "include_frame_nums"):
        del raw[name]
    del raw["diffusion_cfg"]["num_inference_steps"]
    c = parse_model_config(CHECKPOINT, raw, BACKBONE)
    assert (c.min_pixels, c.max_pixels, c.num_diffusion_steps) == (163_840, 196_608, 10)
    assert c.camera_labels
    assert c.frame_labels


def test_rotary_settings_in_one_object_are_read_alike() -> None:
    backbone = copy.deepcopy(BACKBONE)
    text = backbone["text_config"]
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    ours, theirs = (parse_model_config(CHECKPOINT, RAW, b) for b in (backbone, BACKBONE))
    assert ours.language == theirs.language
    assert ours.expert == theirs.expert


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(model_type="llama"), r"model_type 'llama' is not supported, expected one of"),
        (lambda c: c.pop("model_type"), "model_type None is not supported"),
        (lambda c: c.update(model_type=["alpamayo1_5"]), r"model_type \['alpamayo1_5'\] is not supported"),
        (lambda c: c.update(quantization_config={"quant_method": "awq"}), "quantization_config 'awq'"),
        (lambda c: c.update(quantization_config="fp8"), "quantization_config 'fp8'"),
        (lambda c: c.pop("vlm_name_or_path"), "vlm_name_or_path None, expected a path or a hub id"),
        (lambda c: c.update(vlm_name_or_path=""), "vlm_name_or_path '', expected"),
        (lambda c: c.update(vlm_name_or_path="../nowhere"), "'../nowhere' is neither a folder"),
        (lambda c: c.pop("vocab_size"), "vocab_size: missing"),
        (lambda c: c.update(vocab_size="4462"), "vocab_size: '4462', expected a whole number"),
        (lambda c: c.update(expert_cfg=None), "expert_cfg: None, expected an object"),
        (lambda c: c["expert_cfg"].update(head_dim=16), "head_dim 16 differs from the language model's 32"),
        (lambda c: c["diffusion_cfg"].update(int_method="heun"), "int_method: 'heun' is not supported"),
        (lambda c: c.update(expert_non_causal_attention=False), "expert_non_causal_attention: False"),
        (lambda c: c.update(min_pixels=20000), "min_pixels 20000 and max_pixels 16384 allow no image"),
        (lambda c: c["action_space_cfg"].update(accel_bounds=[1]), r"accel_bounds: \[1\], expected 2 numbers"),
        (lambda c: c["action_space_cfg"].update(accel_bounds=["a", 1]), "accel_bounds"),
        (lambda c: c["hist_traj_tokenizer_cfg"].update(predict_yaw=True), "predict_yaw: True is not supported"),
        (lambda c: c["action_space_cfg"].update(dt=True), "dt: True, expected a number"),
    ],
)  # fmt: skip
def test_config_that_cannot_be_run_says_which_field(change: Change, message: str, folder: Path) -> None:
    edit_json(folder / "config.json", change)
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(str(folder))
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("text_config"), "text_config: None, expected an object"),
        (lambda b: b["vision_config"].update(out_hidden_size=64), "64 values a token, .* takes 128"),
        (lambda b: b["vision_config"].update(hidden_act="relu"), "hidden_act: 'relu'"),
        (lambda b: b["vision_config"].pop("deepstack_visual_indexes"), "deepstack_visual_indexes: missing"),
        (lambda b: b["vision_config"].update(deepstack_visual_indexes=["x"]), "deepstack_visual_indexes"),
        (lambda b: b["text_config"].pop("rope_scaling"), "rope_scaling: None, expected an object"),
        (lambda b: b["text_config"]["rope_scaling"].update(mrope_section=[6, 5]), "expected three numbers"),
        (lambda b: b["text_config"].update(rope_theta="big"), "rope_theta: 'big', expected a number"),
        (lambda b: b["text_config"].pop("rope_theta"), "rope_theta: missing"),
        (lambda b: b["text_config"].update(rope_scaling=[6, 5, 5]), "rope_scaling"),
        (lambda b: b["text_config"]["rope_scaling"].update(mrope_section=["x", 5, 5]), "mrope_section"),
        (lambda b: b["text_config"]["rope_scaling"].update(mrope_interleaved=False), "mrope_interleaved"),
        (lambda b: b["text_config"].update(attention_bias=True), "attention_bias: True is not supported"),
        (lambda b: b["text_config"].pop("eos_token_id"), "eos_token_id: missing"),
    ],
)  # fmt: skip
def test_backbone_that_does_not_fit_says_which_field(change: Change, message: str, folder: Path) -> None:
    edit_json(folder.parent / "backbone" / "config.json", change)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(str(folder))


def test_backbone_of_other_sizes_is_found_by_its_tensors(folder: Path) -> None:
    edit_json(
        folder.parent / "backbone" / "config.json", lambda b: b["text_config"].update(intermediate_size=512)
    )
    with pytest.raises(ModelError, match=r"misshapen: .*mlp.*, expected \[512, 128\]"):
        load(str(folder), "eager", "fp32", "cpu")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"text"', "\xff"])
def test_config_that_is_no_json_object(content: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json: (not readable as JSON|holds a JSON)"):
        open_checkpoint(str(folder))


def test_missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json: missing"):
        open_checkpoint(str(folder))


def paths(value: object, at: tuple = ()) -> Iterator[tuple]:
    """The places of all values in a JSON object, inner ones too."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*at, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from paths(inner, (*at, i))


PLACES = [(which, at) for which, raw in (("config", RAW), ("backbone", BACKBONE)) for at in paths(raw)]
junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**400), 10**400), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-9, 9) | st.text(max_size=2), max_size=3),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
)  # fmt: skip


@settings(max_examples=150)
@given(st.sampled_from(PLACES), junk)
def test_any_damaged_field_parses_or_is_a_model_error(place: tuple[str, tuple], value: object) -> None:
    which, at = place
    raws = {"config": copy.deepcopy(RAW), "backbone": copy.deepcopy(BACKBONE)}
    holder: Any = raws[which]
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = value
    with contextlib.suppress(ModelError):  # any other error would be a bug
        parse_model_config(CHECKPOINT, raws["config"], raws["backbone"])

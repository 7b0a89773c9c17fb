# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are bad: the command cannot start, says why in one line and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import (
    CHECKPOINT,
    NAN,
    cannot_start,
    cases,
    change_json,
    change_tensors,
    copy_model,
    cut,
    infer,
    pictures,
    process,
    request,
    shard,
    write_requests,
)


def _config(**changes: Any) -> Callable[[Path], None]:
    """The checkpoint's config with other fields; None takes one out."""

    def change(raw: dict) -> dict:
        return {name: value for name, value in (raw | changes).items() if value is not None}

    return lambda checkpoint: change_json(checkpoint / "config.json", change)


def _tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda checkpoint: change_tensors(checkpoint, change)


def _shards(change: Callable[[Path, list[str]], object]) -> Callable[[Path], object]:
    return lambda checkpoint: change(checkpoint, shard(checkpoint))


def _index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        shard(checkpoint)
        change_json(
            checkpoint / "model.safetensors.index.json", lambda raw: (change(raw["weight_map"]), raw)[1]
        )

    return damage


def _swap(checkpoint: Path, files: list[str]) -> None:
    first, second = (checkpoint / file for file in files)
    first.rename(checkpoint / "x")
    second.rename(first)
    (checkpoint / "x").rename(second)


def _backbone(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda checkpoint: change(checkpoint.parent / "backbone")


def _one_token_less(backbone: Path) -> None:
    """A backbone of the same sizes whose vocabulary ends one id earlier."""

    def less(raw: dict) -> None:
        raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "<|image_pad|>"]

    change_json(backbone / "tokenizer.json", less)
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (backbone / name).unlink()


def _other_sizes(backbone: Path) -> None:
    change_json(backbone / "config.json", lambda raw: raw["text_config"].update(intermediate_size=512))


EXPERT_NORM = "expert.norm.weight"
SUPPORTED = ["alpamayo1_5", "alpamayo_r1", "alpamayo2_super"]

BAD_CHECKPOINTS = {
    "no-config": (lambda c: (c / "config.json").unlink(), ["config.json: missing"]),
    "config-not-json": (lambda c: (c / "config.json").write_text("{"), ["config.json: not readable as JSON"]),
    "config-a-list": (lambda c: (c / "config.json").write_text("[]"), ["config.json", "expected an object"]),
    "other-model-type": (_config(model_type="alpamayo3"), ["model_type 'alpamayo3'", *SUPPORTED]),
    "no-model-type": (_config(model_type=None), ["model_type None", *SUPPORTED]),
    "model-type-a-list": (_config(model_type=["a"]), ["model_type ['a']", *SUPPORTED]),
    "quantized": (
        _config(quantization_config={"quant_method": "awq"}),
        ["quantization_config 'awq'", "unquantized", *SUPPORTED],
    ),
    "no-backbone-name": (_config(vlm_name_or_path=None), ["vlm_name_or_path None"]),
    "backbone-folder-missing": (_config(vlm_name_or_path="../nowhere"), ["vlm_name_or_path '../nowhere'"]),
    "config-field-missing": (_config(traj_token_start_idx=None), ["traj_token_start_idx: missing"]),
    "config-field-text": (_config(vocab_size="many"), ["vocab_size: 'many'"]),
    "config-size-0": (_config(tokens_per_history_traj=0), ["tokens_per_history_traj: 0"]),
    "config-section-text": (_config(diffusion_cfg="euler"), ["diffusion_cfg: 'euler', expected an object"]),
    "pixel-limits-crossed": (_config(min_pixels=9999, max_pixels=1), ["min_pixels 9999", "max_pixels 1"]),
    "weights-missing": (lambda c: (c / "model.safetensors").unlink(), ["neither model.safetensors nor"]),
    "weights-truncated": (lambda c: cut(c / "model.safetensors"), ["model.safetensors: truncated"]),
    "weights-empty": (lambda c: (c / "model.safetensors").write_bytes(b""), ["model.safetensors: truncated"]),
    "weights-not-safetensors": (
        lambda c: (c / "model.safetensors").write_bytes(b"\x80\x02pickle" * 9),
        ["model.safetensors: truncated or not"],
    ),
    "tensor-missing": (_tensors(lambda t: t.pop(EXPERT_NORM)), ["1 tensor(s) missing", EXPERT_NORM]),
    "tensor-unexpected": (
        _tensors(lambda t: t.update({"expert.lora": torch.zeros(2)})),
        ["1 tensor(s) unexpected", "expert.lora"],
    ),
    "tensor-misshapen": (
        _tensors(lambda t: t.update({EXPERT_NORM: torch.zeros(5)})),
        ["1 tensor(s) misshapen", EXPERT_NORM, "[5]", "[96]"],
    ),
    "tensor-of-whole-numbers": (
        _tensors(lambda t: t.update({EXPERT_NORM: t[EXPERT_NORM].to(torch.int8)})),
        ["unsupported type", EXPERT_NORM, "I8"],
    ),
    "shard-missing": (
        _shards(lambda c, files: (c / files[1]).unlink()),
        ["00002-of-00002.safetensors: missing"],
    ),
    "shard-truncated": (_shards(lambda c, files: cut(c / files[0])), ["00001-of-00002.safetensors: truncated"]),
    "shards-swapped": (_shards(_swap), ["00001-of-00002.safetensors: holds tensor", "the index places in"]),
    "index-lists-too-much": (
        _index(lambda m: m.update({"expert.ghost": m[EXPERT_NORM]})),
        ["tensor expert.ghost is missing"],
    ),
    "index-lists-too-little": (_index(lambda m: m.pop(EXPERT_NORM)), [EXPERT_NORM, "does not list"]),
    "index-leaves-the-folder": (
        _index(lambda m: m.update({EXPERT_NORM: "../x.safetensors"})),
        ["shard '../x.safetensors'"],
    ),
    "index-with-numbers": (_index(lambda m: m.update({EXPERT_NORM: 1})), ["shard 1 of expert.norm.weight"]),
    "index-not-json": (
        _shards(lambda c, files: (c / "model.safetensors.index.json").write_text("")),
        ["model.safetensors.index.json: not readable"],
    ),
    "backbone-config-missing": (_backbone(lambda b: (b / "config.json").unlink()), ["config.json: missing"]),
    "tokenizer-missing": (_backbone(lambda b: (b / "tokenizer.json").unlink()), ["tokenizer.json: missing"]),
    "tokenizer-damaged": (_backbone(lambda b: cut(b / "tokenizer.json")), ["tokenizer.json: not a tokenizer"]),
    "tokenizer-config-damaged": (
        _backbone(lambda b: (b / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": 1}}')),
        ["tokenizer_config.json: added_tokens_decoder"],
    ),
    "wrong-backbone-vocabulary": (_backbone(_one_token_less), ["token <i0> gets id", "is this its backbone?"]),
    "wrong-backbone-sizes": (_backbone(_other_sizes), ["misshapen", "mlp"]),
}


@pytest.mark.parametrize(("damage", "words"), cases(BAD_CHECKPOINTS))
def test_bad_checkpoint(tmp_path: Path, cli: Callable, damage: Callable, words: list[str]) -> None:
    checkpoint = copy_model(tmp_path / "model")
    damage(checkpoint)
    write_requests(tmp_path / "in.json", request(pictures(tmp_path)))
    before = sorted(tmp_path.rglob("*"))
    source = ("--input-file", tmp_path / "in.json", "--output-file", tmp_path / "out.json", "--dump-kv-cache")
    cannot_start(cli("infer", "--model", checkpoint, *source), tmp_path, before, words)
    cannot_start(cli("inspect", checkpoint), tmp_path, before, words)


def test_sharded_checkpoint_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict
) -> None:
    source = write_requests(tmp_path / "in.json", entry)
    _, (single,) = infer(capsys, source)
    checkpoint = copy_model(tmp_path / "model")
    shard(checkpoint)
    run, (sharded,) = infer(capsys, source, model=checkpoint)
    assert run.status == 0
    assert sharded["trajectories"] == single["trajectories"]


def test_weights_that_are_not_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict) -> None:
    checkpoint = copy_model(tmp_path / "model")
    change_tensors(checkpoint, lambda t: t["action_out_proj.bias"].fill_(NAN))
    run, (response,) = infer(capsys, write_requests(tmp_path / "in.json", entry), model=checkpoint)
    assert run.status == 1
    assert "not finite" in response["error"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/none", ["nobody/none", "no such folder", "hf download nobody/none"]),
        ("none", ["'none' is neither a folder nor a hub id"]),
        ("a/b..c", ["'a/b..c' is neither a folder nor a valid hub id"]),
    ],
)
def test_hub_id_without_network(tmp_path: Path, name: str, words: list[str]) -> None:
    run = process("inspect", name, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path))
    cannot_start(run, tmp_path, [], words)


def test_model_is_a_file(tmp_path: Path, cli: Callable) -> None:
    weights = CHECKPOINT / "model.safetensors"
    cannot_start(cli("inspect", weights), tmp_path, [], ["model.safetensors is a file"])

# SPDX-License-Identifier: Apache-2.0
"""Writes a narrowed copy of a checkpoint, in the layout that the hub has, shard by shard."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from alpamayo_rt.atomic import is_running
from alpamayo_rt.checkpoint import Checkpoint, empty_network, match_tensors
from alpamayo_rt.config import read_json
from alpamayo_rt.errors import InputError, ModelError
from alpamayo_rt.hub import BACKBONE_FILES
from alpamayo_rt.quantization.plan import FILE, Plan

_BACKBONE = "backbone"


def save_quantized(
    checkpoint: Checkpoint, out: Path, plan: Plan, progress: Callable[[str], None] | None = None
) -> None:
    """Write a checkpoint whose linear layers are narrowed; it holds its backbone's files too.

    The folder appears when it is whole: it is made beside its place and renamed.

    Args:
        checkpoint: in a floating type.
        out: a folder that does not exist or is empty.
        plan: what is narrowed, and how.
        progress: called with one line a shard.

    Raises:
        InputError: `out` cannot be written, or holds something.
        ModelError: the checkpoint is narrowed already, does not fit together, or has infinite weights.
    """
    if checkpoint.plan is not None:
        raise ModelError(
            f"{checkpoint.folder}: holds {checkpoint.plan.precision} weights already, expected a "
            "checkpoint in a floating type"
        )
    network = empty_network(checkpoint)
    placed = match_tensors(checkpoint, network)
    check_new_folder(out)
    target = out.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _remove_leftovers(target)
        beside.mkdir()
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    try:
        weight_map, size = _write_shards(checkpoint, network, placed, plan, beside, progress)
        _write_descriptions(checkpoint, plan, beside, weight_map, size)
        _finish_files(beside)
        os.replace(beside, target)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_new_folder(out: Path) -> None:
    """Refuse a folder that holds something, and a place where there can be none.

    Raises:
        InputError: says which.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, expected a new or empty folder")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty, expected a new or empty folder")
    parent = out.resolve().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{out}: cannot be written, {parent} is no folder that can be written to")


def _remove_leftovers(target: Path) -> None:
    """What a killed process left beside its place."""
    for sibling in target.parent.iterdir():
        match = re.fullmatch(rf"\.{re.escape(target.name)}\.(\d+)\.tmp", sibling.name)
        if match and sibling.is_dir() and not is_running(int(match[1])):
            shutil.rmtree(sibling, ignore_errors=True)


def _finish_files(folder: Path) -> None:
    """On the disk, and with the rights that new files get here; safetensors gives its own fewer."""
    rights = (folder / "config.json").stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            path.chmod(rights)


def _write_shards(
    checkpoint: Checkpoint,
    network: nn.Module,
    placed: dict[str, str],
    plan: Plan,
    folder: Path,
    progress: Callable[[str], None] | None,
) -> tuple[dict[str, str], int]:
    """All tensors, in files named as theirs; returns tensor → file, and the bytes of all of them."""
    layers = set(plan.layers(network))
    shards = sorted({tensor.shard for tensor in checkpoint.tensors.values()})
    weight_map: dict[str, str] = {}
    size = 0
    for i, shard in enumerate(shards):
        if progress is not None:
            progress(f"narrowing {shard} ({i + 1} of {len(shards)})")
        made: dict[str, torch.Tensor] = {}
        try:
            with safe_open(checkpoint.folder / shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    owner, _, leaf = placed[name].rpartition(".")
                    tensor = file.get_tensor(name)
                    linear = network.get_submodule(owner)
                    if owner in layers and leaf == "weight" and isinstance(linear, nn.Linear):
                        made |= _narrowed(name.removesuffix("weight"), owner, linear, tensor, plan)
                    else:
                        made[name] = tensor
        except SafetensorError as error:
            raise ModelError(f"{checkpoint.folder / shard}: cannot be read ({error})") from None
        try:
            save_file(made, folder / shard, metadata={"format": "pt"})
        except SafetensorError as error:
            raise InputError(f"{shard}: cannot be written ({error})") from None
        weight_map |= dict.fromkeys(made, shard)
        size += sum(tensor.numel() * tensor.element_size() for tensor in made.values())
    return weight_map, size


def _narrowed(
    prefix: str, name: str, linear: nn.Linear, weight: torch.Tensor, plan: Plan
) -> dict[str, torch.Tensor]:
    layer = plan.convert(name, linear, weight)
    tensors = {leaf: getattr(layer, leaf) for leaf in layer.exact}
    return {prefix + leaf: value.detach().contiguous() for leaf, value in tensors.items() if value is not None}


def _write_descriptions(
    checkpoint: Checkpoint, plan: Plan, folder: Path, weight_map: dict[str, str], size: int
) -> None:
    if set(weight_map.values()) != {"model.safetensors"}:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    config = read_json(checkpoint.folder / "config.json")
    # Whoever copies the folder elsewhere takes the tokenizer along.
    beside = folder
    if not checkpoint.config.family.nested_config:
        beside = folder / _BACKBONE
        beside.mkdir()
        config["vlm_name_or_path"] = _BACKBONE
    for name in BACKBONE_FILES:
        if (checkpoint.backbone / name).exists():
            shutil.copyfile(checkpoint.backbone / name, beside / name)
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", "utf-8")
    noted = dataclasses.replace(plan, source_hash=checkpoint.fingerprint())
    (folder / FILE).write_text(noted.to_json())

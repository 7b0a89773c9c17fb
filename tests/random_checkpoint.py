# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with random weights where only the configuration is shipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checkpoint_files import edit_json
from safetensors.torch import save_file
from situations import SHIPPED_SUPER

from alpamayo_rt.checkpoint import checkpoint_name
from alpamayo_rt.config import ModelConfig, parse_model_config, read_json
from alpamayo_rt.model.network import Network

INDEX = "model.safetensors.index.json"


def tensor_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """The checkpoint's names of all weights, and their shapes."""
    with torch.device("meta"):
        network = Network(config)
    return {checkpoint_name(name, config): p.shape for name, p in network.named_parameters()}


def write_random_super(
    folder: Path, shards: int = 2, seed: int = 0, change: Callable[[dict[str, Any]], object] | None = None
) -> Path:
    """A tiny Alpamayo 2 Super with the shipped configuration; its bfloat16 weights say nothing sensible."""
    shutil.copytree(SHIPPED_SUPER / "model" / "checkpoint", folder, dirs_exist_ok=True)
    if change is not None:
        edit_json(folder / "config.json", change)
    config = parse_model_config(folder, read_json(folder / "config.json"), {})
    generator = torch.Generator().manual_seed(seed)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map: dict[str, str] = {}
    held: dict[str, dict[str, torch.Tensor]] = {file: {} for file in files}
    for i, (name, shape) in enumerate(sorted(tensor_shapes(config).items())):
        scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
        value = scale * torch.randn(shape, generator=generator)
        value = (1 + 0.1 * value if "norm" in name and name.endswith("weight") else value).bfloat16()
        weight_map[name] = files[i % shards]
        held[weight_map[name]][name] = value
    for file, tensors in held.items():
        save_file(tensors, folder / file)
    size = sum(t.numel() * 2 for tensors in held.values() for t in tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    return folder

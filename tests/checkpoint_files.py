# SPDX-License-Identifier: Apache-2.0
"""Copies of the shipped checkpoint that tests may change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from situations import SHIPPED

Tensors = dict[str, torch.Tensor]


def copied(to: Path) -> Path:
    """A copy of checkpoint and backbone; the checkpoint's folder."""
    shutil.copytree(SHIPPED / "model", to / "model")
    return to / "model" / "checkpoint"


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_tensors(folder: Path, change: Callable[[Tensors], object], name: str = "model.safetensors") -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)


def edit_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a safetensors file's description of its data, not the data."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def shard(folder: Path, count: int = 3) -> dict[str, str]:
    """Split the weights into `count` files with an index, as the hub has them; returns the weight map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    weight_map = {name: files[i % count] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({n: tensors[n] for n, where in weight_map.items() if where == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weight_map


def stored_statistics(frequencies: torch.Tensor) -> Tensors:
    """What an R1 checkpoint holds beyond a 1.5 one, with values that nothing would compute."""
    return {
        "action_in_proj.sinus.0.freqs": frequencies,
        "action_in_proj.sinus.1.freqs": frequencies * 2,
        "action_in_proj.timestep_fourier_encoder.freqs": frequencies * 4,
        "action_space.accel_mean": torch.tensor(0.125, dtype=torch.bfloat16),
        "action_space.accel_std": torch.tensor(0.7265625, dtype=torch.bfloat16),
        "action_space.curvature_mean": torch.tensor(0.0625, dtype=torch.bfloat16),
        "action_space.curvature_std": torch.tensor(0.0260009765625, dtype=torch.bfloat16),
    }

# SPDX-License-Identifier: Apache-2.0
"""Fresh weights, and checkpoints of them in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from alpamayo_rt.atomic import replacing, write_atomically
from alpamayo_rt.checkpoint import checkpoint_name
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.model.network import Network


def initialize(network: Network, seed: int) -> None:
    """Scaled normal weights, ones in norms, zeros in biases and in what closes a residual branch."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            fan_in = parameter[0].numel()
            scale = 0.02 if "embed" in name or "lm_head" in name else fan_in**-0.5
            if name.endswith(
                ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "action_out_proj.weight")
            ):
                scale *= 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def save_checkpoint(network: nn.Module, config: ModelConfig, folder: Path, shards: int = 2) -> None:
    """Write the weights in bfloat16 under their released names, in `shards` files of about one size.

    The index is written last, so that a reader never finds one that names a missing shard.
    """
    tensors = {
        checkpoint_name(name, config): parameter.detach().to("cpu", torch.bfloat16).contiguous()
        for name, parameter in network.named_parameters()
    }
    total = sum(t.numel() for t in tensors.values())
    weight_map: dict[str, str] = {}
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    done = 0
    for name, tensor in tensors.items():
        shard = min(done * shards // total, shards - 1)
        parts[shard][name] = tensor
        weight_map[name] = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        done += tensor.numel()
    for i, part in enumerate(parts):
        with replacing(folder / f"model-{i + 1:05d}-of-{shards:05d}.safetensors") as beside:
            save_file(part, beside, {"format": "pt"})
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    write_atomically(folder / "model.safetensors.index.json", (json.dumps(index, indent=1) + "\n").encode())

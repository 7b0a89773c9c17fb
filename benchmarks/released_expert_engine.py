# SPDX-License-Identifier: Apache-2.0
"""An expert of the released size with random weights, as an export that `alpamayo-rt build-engine` can build.

Run `python benchmarks/released_expert_engine.py --out DIR`, then `alpamayo-rt build-engine DIR --target sm120
--backend tensorrt-rtx`; the engine's description holds the time and the peak memory of the build.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from alpamayo_rt.checkpoint import open_checkpoint
from alpamayo_rt.config import ActionInConfig, TextConfig
from alpamayo_rt.engine.bindings import OPSET, SHARED, expert_bindings
from alpamayo_rt.export.expert import SharedExpert
from alpamayo_rt.export.folder import write_model
from alpamayo_rt.export.trace import trace
from alpamayo_rt.model.expert import Expert

EXPERT = TextConfig(
    num_layers=36, hidden_size=2048, num_heads=16, num_kv_heads=8, head_dim=128, intermediate_size=8256,
    rms_norm_eps=1e-6, rope_theta=5e6, mrope_section=(24, 20, 20), vocab_size=155_697, eos_token_id=151_645,
)  # fmt: skip


def main() -> None:
    """Write the export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=EXPERT.num_layers)
    args = parser.parse_args()
    text = replace(EXPERT, num_layers=args.layers)
    # Whatever the size does not touch (waypoints) is as in any checkpoint.
    config = replace(open_checkpoint("nano").config, expert=text, action_in=ActionInConfig(512, 2, 20, 100.0))
    with torch.device("meta"):
        expert = Expert(config.expert, config.action_in)
    expert = expert.to(torch.float16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in expert.named_parameters():
            parameter.normal_(0, 0.02, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter += 1
    fresh = Expert(replace(text, num_layers=1, intermediate_size=8), config.action_in)
    for name, buffer in fresh.named_buffers():
        owner, _, leaf = name.rpartition(".")
        expert.get_submodule(owner).register_buffer(leaf, buffer)
    bindings = expert_bindings(config, SHARED, torch.float16)
    model = trace(SharedExpert(expert.eval(), config.action_space.n_waypoints), bindings)
    about = {
        "part": "expert", "precision": "fp16", "contract": SHARED, "opset": str(OPSET),
        "model_name": "released-size-random", "model_hash": "", "family": config.family.model_type,
    }  # fmt: skip
    size = write_model(args.out / "expert", model, about)
    print(f"{sum(p.numel() for p in expert.parameters()) / 1e9:.2f} billion weights, {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()

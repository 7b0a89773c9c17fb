# SPDX-License-Identifier: Apache-2.0
"""The contracts: names, types and shapes of every exported part's inputs and outputs.

The exporter writes them, sessions are checked against them, docs/export.md prints them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.session import Binding

PARTS = ("vision", "language", "expert")
FUSED, SHARED, SHARED_LOOP = "fused", "shared", "shared-loop"
CONTRACTS = (FUSED, SHARED, SHARED_LOOP)
OPSET = 20
"""Of exported files: the first that has FP8 Q/DQ (19) and the tanh Gelu (20)."""
F32, I64, I32 = torch.float32, torch.int64, torch.int32


class Bindings(NamedTuple):
    """Inputs and outputs of one part."""

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]


def vision_bindings(config: ModelConfig, dtype: torch.dtype) -> Bindings:
    """I images of one size, n patches each, in `dtype` out: M = I·n/4 tokens."""
    c = config.vision
    values = c.in_channels * c.temporal_patch_size * c.patch_size**2
    names = ("image_embeds", *(f"deepstack_{i}" for i in range(len(c.deepstack_layers))))
    return Bindings(
        (Binding("pixel_values", F32, ("I", "n", values)), Binding("grid", I64, (2,))),
        tuple(Binding(name, dtype, ("M", c.out_hidden_size)) for name in names),
    )


def language_bindings(config: ModelConfig, dtype: torch.dtype) -> Bindings:
    """N new tokens behind S cached ones, logits of R of them; prompt and generated tokens alike."""
    c = config.language
    planes, hidden = 2 * c.num_layers, c.hidden_size
    taps = len(config.vision.deepstack_layers)
    return Bindings(
        (
            Binding("input_ids", I64, ("N",)),
            Binding("position_ids", I64, (3, "N")),
            Binding("attention_mask", F32, ("N", "S + N")),
            Binding("kv_cache", dtype, (planes, 1, c.num_kv_heads, "S", c.head_dim)),
            Binding("logit_rows", I64, ("R",)),
            Binding("image_mask", torch.bool, ("N",)),
            Binding("image_embeds", dtype, ("N", hidden)),
            *(Binding(f"deepstack_{i}", dtype, ("N", hidden)) for i in range(taps)),
        ),
        (
            Binding("logits", F32, ("R", c.vocab_size)),
            Binding("kv_new", dtype, (planes, 1, c.num_kv_heads, "N", c.head_dim)),
        ),
    )


def expert_bindings(config: ModelConfig, contract: str, dtype: torch.dtype) -> Bindings:
    """B candidates; `fused` has S cached places each, in float32, `shared` P for all and T each, in `dtype`."""
    c, w = config.expert, config.action_space.n_waypoints
    planes = 2 * c.num_layers
    action = Binding("noisy_action", F32, ("B", w, 2))
    positions = Binding("position_ids", I64, (3, "B", w))
    velocity = Binding("pred_velocity", F32, ("B", w, 2))
    if contract == FUSED:
        return Bindings(
            (
                action,
                Binding("timestep", F32, ("B", 1, 1)),
                positions,
                Binding("attention_mask", F32, ("B", 1, w, f"S + {w}")),
                Binding("kv_cache", F32, (planes, "B", c.num_kv_heads, "S", c.head_dim)),
            ),
            (velocity,),
        )
    cache = (
        Binding("kv_prefix", dtype, (planes, 1, c.num_kv_heads, "P", c.head_dim)),
        Binding("prefix_length", I32, (1,)),
        Binding("kv_tail", dtype, (planes, "B", c.num_kv_heads, "T", c.head_dim)),
        Binding("tail_length", I32, ("B",)),
    )
    if contract == SHARED:
        return Bindings(
            (action, Binding("timestep", F32, (1,)), Binding("dt", F32, (1,)), positions, *cache),
            (velocity, Binding("next_action", F32, ("B", w, 2))),
        )
    return Bindings((action, positions, *cache), (Binding("action", F32, ("B", w, 2)),))


def part_bindings(config: ModelConfig, part: str, contract: str, dtype: torch.dtype) -> Bindings:
    """Inputs and outputs of a part; `contract` matters for the expert alone."""
    if part == "vision":
        return vision_bindings(config, dtype)
    if part == "language":
        return language_bindings(config, dtype)
    return expert_bindings(config, contract, dtype)

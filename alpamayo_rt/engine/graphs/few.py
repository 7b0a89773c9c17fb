# SPDX-License-Identifier: Apache-2.0
"""Decoder layers over one token a sequence: bound by reading the weights once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.graphs.many import Places
from alpamayo_rt.engine.graphs.weights import Fused, LayerWeights
from alpamayo_rt.kernels.attention.operations import decode_attention_from_qkv
from alpamayo_rt.kernels.attention.scratch import DecodeScratch, decode_configuration
from alpamayo_rt.kernels.skinny import operations as skinny

MOST_ROWS = 16


@dataclass(frozen=True)
class Seen:
    """What each row attends to: the prefix, and so many tokens of its own tail.

    Attributes:
        prefix_length: () int64.
        tail_start: first slot of the first tail.
        tail_room: slots of a tail.
        tail_length: (R,) int64, the row's new token included.
    """

    prefix_length: torch.Tensor
    tail_start: int
    tail_room: int
    tail_length: torch.Tensor


class FewRows:
    """Buffers for R rows through the layers of a decoder, behind a prompt of up to so many tokens."""

    def __init__(self, rows: int, prompt: int, config: TextConfig, device: torch.device, dtype: torch.dtype):
        self.config = config

        def empty(*shape: int) -> torch.Tensor:
            return torch.zeros(rows, *shape, device=device, dtype=dtype)

        heads, kv, d = config.num_heads, config.num_kv_heads, config.head_dim
        self.x = empty(config.hidden_size)
        self.qkv = empty((heads + 2 * kv) * d)
        self.mixed = empty(heads, d)
        self.opened = empty(config.intermediate_size)
        self.logits = torch.zeros(rows, config.vocab_size, device=device, dtype=torch.float32)
        division = decode_configuration(rows, heads, kv, prompt)
        self.scratch = DecodeScratch.allocate(rows, heads, kv, d, device, division)

    def layer(
        self, weights: LayerWeights, places: Places, keys: torch.Tensor, values: torch.Tensor, seen: Seen
    ) -> None:
        """One layer over `x`, in place."""
        c, eps = self.config, self.config.rms_norm_eps
        skinny.norm_linear(self.x, weights.input_norm, eps, weights.qkv.weight, self.qkv)
        decode_attention_from_qkv(
            self.qkv, weights.q_norm, weights.k_norm, eps, *places, keys, values, seen.prefix_length,
            seen.tail_start, seen.tail_room, seen.tail_length, c.head_dim**-0.5, self.mixed, self.scratch,
        )  # fmt: skip
        skinny.linear_add(self.mixed.flatten(1), weights.o.weight, self.x)
        skinny.norm_linear_swiglu(self.x, weights.post_norm, eps, weights.gate_up.weight, self.opened)
        skinny.linear_add(self.opened, weights.down.weight, self.x)

    def head(self, norm: torch.Tensor, head: Fused) -> None:
        """`logits` of `x`."""
        skinny.norm_linear(self.x, norm, self.config.rms_norm_eps, head.weight, self.logits)

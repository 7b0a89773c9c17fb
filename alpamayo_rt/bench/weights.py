# SPDX-License-Identifier: Apache-2.0
"""Where a network's weights come from, tensor by tensor, and how they get into modules.

A tensor can be read again whenever it is needed: a random one is drawn once more from its own seed. So a
network can be run layer by layer in another type beside one that fills the memory.
"""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.checkpoint import Checkpoint, checkpoint_name
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.quantization.plan import Plan

_CLOSES_A_BRANCH = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.linear_fc2.weight")
_ROWS = 16_384
_HEAD_GAIN = 4.0
"""Logits of about this standard deviation: a few tokens are likely, as in a trained model."""


class Weights(Protocol):
    """A source of weights."""

    def read(self, name: str, shape: torch.Size) -> torch.Tensor:
        """The tensor `name` of `Network`, of this shape, on the device."""


@dataclass(frozen=True)
class RandomWeights:
    """Scaled normal numbers that keep activations near one at any depth; the same for a seed and device."""

    config: ModelConfig
    device: torch.device
    seed: int = 0

    def read(self, name: str, shape: torch.Size) -> torch.Tensor:
        """See `Weights`; bfloat16, as releases are."""
        generator = torch.Generator(self.device)
        # 32 bits: the generator of the CPU looks at no more.
        generator.manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        drawn = torch.empty(shape, device=self.device, dtype=torch.bfloat16).normal_(generator=generator)
        if name.endswith("bias"):
            return drawn.mul_(0.02)
        if len(shape) == 1:
            return drawn.mul_(0.05).add_(1)
        if "embed_tokens" in name or "pos_embed" in name:
            return drawn
        scale = (drawn.numel() / shape[0]) ** -0.5
        if name.endswith(_CLOSES_A_BRANCH):
            scale *= (2 * self._layers(name)) ** -0.5
        if "lm_head" in name:
            scale *= _HEAD_GAIN
        return drawn.mul_(scale)

    def _layers(self, name: str) -> int:
        c = self.config
        return {"vision": c.vision.depth, "language": c.language.num_layers}.get(
            name.split(".")[0], c.expert.num_layers
        )


@dataclass(frozen=True)
class CheckpointWeights:
    """The tensors of a checkpoint in a floating type."""

    checkpoint: Checkpoint
    device: torch.device

    def read(self, name: str, shape: torch.Size) -> torch.Tensor:
        """See `Weights`."""
        return self.checkpoint.read(checkpoint_name(name, self.checkpoint.config)).to(self.device)


@dataclass(frozen=True)
class Filler:
    """Fills modules that have no data yet, narrowing layer by layer as loading does.

    Attributes:
        weights: the source.
        dtype: of all that is not narrowed.
        plan: how layers are narrowed, or None.
        narrowed: their names in `Network`.
    """

    weights: Weights
    dtype: torch.dtype
    plan: Plan | None = None
    narrowed: frozenset[str] = frozenset()

    def table(self, module: nn.Module, path: str) -> torch.Tensor:
        """The one weight of a module, as it is stored."""
        return self.weights.read(f"{path}.weight", module.get_parameter("weight").shape)

    def fill(self, module: nn.Module, path: str) -> nn.Module:
        """Fill a module called `path` in `Network`, in place, or give back another to put in its place."""
        narrow = self.plan is not None and path in self.narrowed
        for leaf, slot in list(module.named_parameters(recurse=False)):
            if not (narrow and leaf == "weight"):
                value = self.weights.read(f"{path}.{leaf}", slot.shape).to(self.dtype)
                module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
        if narrow:
            assert self.plan is not None
            assert isinstance(module, nn.Linear)
            weight = self.weights.read(f"{path}.weight", module.weight.shape)
            return self.plan.convert(path, module, weight)
        for name, child in list(module.named_children()):
            setattr(module, name, self.fill(child, f"{path}.{name}" if path else name))
        return module


class Streamed(nn.Module):
    """A module whose weights are read each time it runs, and then forgotten."""

    def __init__(self, template: nn.Module, path: str, filler: Filler):
        super().__init__()
        self._template, self._path, self._filler = template, path, filler

    def forward(self, *args: object) -> object:
        """Run the module."""
        return self._filler.fill(copy.deepcopy(self._template), self._path)(*args)


class StreamedEmbedding(Streamed):
    """Looks up rows first and converts them then: a table in float32 is gigabytes."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(N,) → (N, hidden)."""
        return F.embedding(ids, self._filler.table(self._template, self._path)).to(self._filler.dtype)


class StreamedHead(Streamed):
    """Converts a part of the rows at a time, where they have to be converted."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(…, hidden) → (…, vocabulary)."""
        if self._path in self._filler.narrowed:
            return super().forward(x)  # type: ignore[return-value]
        table = self._filler.table(self._template, self._path)
        if table.dtype == x.dtype:
            return F.linear(x, table)
        return torch.cat([F.linear(x, rows.to(x.dtype)) for rows in table.split(_ROWS)], -1)

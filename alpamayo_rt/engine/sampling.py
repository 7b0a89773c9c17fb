# SPDX-License-Identifier: Apache-2.0
"""From logits to a token: mask → temperature → top-k → top-p → draw.

Draws use given uniform numbers and the inverse of the cumulated distribution, so that two engines which see the
same logits and numbers choose the same token, and a run can be paired with another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.tasks import Task

_ROW_SEED_STRIDE = 1_000_003
Ranges = tuple[tuple[int, int], ...]
"""[first, last) each."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen and how many at most."""

    temperature: float = 0.6
    top_p: float = 0.98
    top_k: int | None = None
    max_generate_length: int = 256

    @property
    def greedy(self) -> bool:
        """Whether the best token is always taken."""
        return self.temperature == 0 or self.top_k == 1 or self.top_p == 0


@dataclass(frozen=True)
class StopRule:
    """What a rollout may not say and what ends it.

    Attributes:
        masked: ranges [first, last) of ids that are never chosen.
        closing: a token after whose entry into the cache the rollout is finished, or None.
        end: the text's own end, which never enters the cache.
    """

    masked: Ranges
    closing: int | None
    end: int

    @classmethod
    def of(cls, task: Task, config: ModelConfig, future_start: int) -> StopRule:
        """The rule of a task; `future_start`: the id of `<|traj_future_start|>`."""
        first, end = config.traj_token_start, config.language.eos_token_id
        bins = ((first, first + config.traj_vocab_size),) if task.masks_bins else ()
        ends = ((end, end + 1),) if task.masks_end else ()
        return cls(bins + ends, future_start if task.closes else None, end)


def draw_uniforms(sequences: int, length: int, seed: int) -> torch.Tensor:
    """Uniform numbers (sequences, length) float64 in [0, 1) on the CPU; a row does not depend on the others."""
    rows = []
    for row in range(sequences):
        generator = torch.Generator().manual_seed((seed * _ROW_SEED_STRIDE + row + 1) % 2**63)
        rows.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def choose(
    logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling, masked: Ranges = ()
) -> torch.Tensor:
    """Choose one token a row.

    Args:
        logits: (R, V) float32.
        uniforms: (R,) in [0, 1).
        sampling: the settings.
        masked: ranges [first, last) of ids that are never chosen.

    Returns:
        (R,) int64.
    """
    if masked:
        logits = logits.clone()
        for first, last in masked:
            logits[:, first:last] = -torch.inf
    if sampling.greedy:
        return logits.argmax(-1)
    ordered, ids = (logits / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None and sampling.top_k < ordered.shape[1]:
        # Ties with the k-th value stay, as in the reference's library.
        ordered = ordered.masked_fill(ordered < ordered[:, sampling.top_k - 1, None], -torch.inf)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    kept = (before < sampling.top_p).index_fill(1, torch.tensor([0], device=logits.device), True)
    cumulated = (probabilities * kept).double().cumsum(-1)
    at = torch.searchsorted(cumulated, uniforms.to(cumulated)[:, None] * cumulated[:, -1:], right=True)
    last_kept = kept.sum(-1, keepdim=True) - 1
    return ids.gather(1, torch.minimum(at, last_kept))[:, 0]

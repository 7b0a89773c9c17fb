# SPDX-License-Identifier: Apache-2.0
"""What the expert is told about the reasoning: which cache positions it reads, where its own begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alpamayo_rt.engine.kv_cache import KvCache


@dataclass(frozen=True)
class HandOff:
    """One line a candidate.

    Attributes:
        cache: the language model's cache.
        sequences: (K,) the sequence that each candidate reads.
        offsets: (K,) tokens of that sequence, prompt included, that it may attend to; its positions go on
            there.
        attended: (K, slots) bool.
        position_ids: (3, K, W) int64.
    """

    cache: KvCache
    sequences: torch.Tensor
    offsets: torch.Tensor
    attended: torch.Tensor
    position_ids: torch.Tensor


def reasoning_length(tokens: Sequence[int], closing: int | None) -> int:
    """Tokens up to and including the first `closing`, or all of them."""
    return next((i + 1 for i, token in enumerate(tokens) if token == closing), len(tokens))


def hand_off(
    cache: KvCache,
    tokens: Sequence[Sequence[int]],
    sequences: Sequence[int],
    closing: int | None,
    waypoints: int,
) -> HandOff:
    """Build the hand-off (formulas "Language model and expert layers").

    Args:
        cache: after the rollout.
        tokens: what each sequence generated.
        sequences: the sequence that each of the K candidates reads.
        closing: the token that starts the future trajectory. A sequence without it is attended as a whole; its
            last token is not in the cache, so that one position stays empty.
        waypoints: tokens of the expert.
    """
    device = cache.keys.device
    offsets = torch.tensor(
        [cache.prompt_length + reasoning_length(tokens[s], closing) for s in sequences], device=device
    )
    rows = torch.tensor(list(sequences), device=device)
    steps = torch.arange(waypoints, device=device)
    positions = (offsets + cache.rope_delta)[:, None] + steps
    return HandOff(cache, rows, offsets, cache.visible(rows, offsets), positions.expand(3, -1, -1))

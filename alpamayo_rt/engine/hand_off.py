# SPDX-License-Identifier: Apache-2.0
"""What the expert is told about the reasoning: which cache positions it reads, where its own begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alpamayo_rt.config import TextConfig
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
    """Build the hand-off.

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


def hand_off_from_arrays(
    config: TextConfig,
    keys: torch.Tensor,
    values: torch.Tensor,
    attended: torch.Tensor,
    position_ids: torch.Tensor,
    sequences: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
) -> HandOff:
    """A hand-off over a stored cache, each of its rows a sequence of its own.

    Args:
        config: of the language model.
        keys: (layers, rows, kv heads, S, head dim), as are values.
        values: see keys.
        attended: (K, S + W) bool; the last W columns, the candidate's own tokens, are not looked at.
        position_ids: (3, K, W).
        sequences: the row that each candidate reads.
        device: where the cache goes.
        dtype: its type.
    """
    _, rows, _, length, _ = keys.shape
    candidates, waypoints = position_ids.shape[1:]
    cache = KvCache.allocate(config, rows * length + candidates * waypoints, 0, 0, device, dtype)
    owner = torch.arange(rows, device=device).repeat_interleave(length)
    slots = cache.claim(owner, torch.arange(length, device=device).repeat(rows))
    for target, source in ((cache.keys, keys), (cache.values, values)):
        target[:, :, slots] = source.transpose(1, 2).flatten(2, 3).to(target)
    reads = torch.tensor(list(sequences), device=device)
    visible = (owner == reads[:, None]) & attended[:, :length].to(device).repeat(1, rows)
    offsets = attended[:, :length].sum(1).to(device)
    return HandOff(cache, reads, offsets, visible, position_ids.to(device))

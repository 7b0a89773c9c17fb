# SPDX-License-Identifier: Apache-2.0
"""What every engine does before it runs further tokens: take slots, give positions, say who sees whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from alpamayo_rt.engine.kv_cache import KvCache


class NewTokens(NamedTuple):
    """Tokens of some sequences, one after the other, with their places.

    Attributes:
        ids: (N,) int64.
        positions: (3, N) int64.
        slots: where their keys and values go.
        mask: (N, slots.stop) bool, which slots each of them sees.
        last: (R,) int64, the row of each sequence's last token.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    slots: slice
    mask: torch.Tensor
    last: torch.Tensor


def claim_tokens(
    cache: KvCache, sequences: Sequence[int], tokens: Sequence[Sequence[int]], unseen: int | None = None
) -> NewTokens:
    """Make room in the cache for the next tokens of some sequences (arguments as in `Engine.append`)."""
    device = cache.keys.device
    counts = torch.tensor([len(t) for t in tokens])
    owner = torch.tensor(list(sequences)).repeat_interleave(counts)
    own = cache.owner[: cache.length].cpu()
    order = torch.cat(
        [
            cache.prompt_length + int((own == s).sum()) + torch.arange(len(t))
            for s, t in zip(sequences, tokens, strict=True)
        ]
    )
    ids = torch.tensor([t for row in tokens for t in row], device=device)
    owner, order = owner.to(device), order.to(device)
    slots = cache.claim(owner, order)
    mask = cache.visible(owner, order + 1)
    if unseen is not None:
        mask[:, slots] &= ids != unseen
    last = (counts.cumsum(0) - 1).to(device)
    return NewTokens(ids, (order + cache.rope_delta).expand(3, -1), slots, mask, last)

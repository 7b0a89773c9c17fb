# SPDX-License-Identifier: Apache-2.0
"""What every engine does before it runs further tokens: take slots, give positions, say who sees whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.kv_cache import PROMPT, KvCache
from alpamayo_rt.prompt.prompt import Prompt


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


def fork_prompt(
    shared: KvCache, length: int, prompt: Prompt, room: int, config: TextConfig, dtype: torch.dtype
) -> tuple[KvCache, NewTokens] | None:
    """A cache that begins with a copy of another prompt's slots (arguments as in `Engine.prefill_from`).

    Returns:
        The cache and the tokens of the prompt that are still to be run; None where that is the whole prompt, or
        where images are among them, which need more than their ids.
    """
    # The logits of the last token are asked for, so that one always runs.
    n, length = len(prompt), min(length, len(prompt) - 1)
    if length == 0 or bool((prompt.image_slots >= length).any()):
        return None
    device = shared.keys.device
    cache = KvCache.allocate(config, n + room, n, prompt.rope_delta, device, dtype)
    order = torch.arange(n, device=device)
    owner = torch.full_like(order, PROMPT)
    cache.claim(owner[:length], order[:length])
    cache.keys[:, :, :length] = shared.keys[:, :, :length]
    cache.values[:, :, :length] = shared.values[:, :, :length]
    slots = cache.claim(owner[length:], order[length:])
    mask = cache.visible(owner[length:], order[length:] + 1)
    ids, positions = prompt.ids[length:].to(device), prompt.positions[:, length:].to(device)
    return cache, NewTokens(ids, positions, slots, mask, torch.tensor([n - length - 1], device=device))


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

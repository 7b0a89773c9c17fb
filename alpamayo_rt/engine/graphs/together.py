# SPDX-License-Identifier: Apache-2.0
"""Many tokens of text behind a prompt at once, through the modules themselves: the second cache of guidance.

A decode step for each known token would read all weights as often. These passes are not captured: their lengths
differ from request to request, and they are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alpamayo_rt.engine.attention import masked_attention
from alpamayo_rt.engine.graphs.cache import SegmentedCache
from alpamayo_rt.engine.kv_cache import PROMPT
from alpamayo_rt.model.language import LanguageModel
from alpamayo_rt.model.rotary import mrope_cos_sin
from alpamayo_rt.prompt.prompt import Prompt


@dataclass(frozen=True)
class ScatteredAttention:
    """Writes the N new tokens' keys and values at `slots` (N,), and attends where `mask` (N, S) bool admits."""

    cache: SegmentedCache
    slots: torch.Tensor
    mask: torch.Tensor

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(heads, N, d), (kv heads, N, d), (kv heads, N, d) → (heads, N, d)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[:, self.slots], values[:, self.slots] = k, v
        end = self.mask.shape[1]
        return masked_attention(q, keys[:, :end], values[:, :end], self.mask)


def append_together(
    language: LanguageModel,
    cache: SegmentedCache,
    sequences: Sequence[int],
    tokens: Sequence[Sequence[int]],
    unseen: int | None,
) -> torch.Tensor:
    """See `Engine.append`; the cache has been divided."""
    device = cache.keys.device
    owner: list[int] = []
    order: list[int] = []
    slots: list[int] = []
    for s, row in zip(sequences, tokens, strict=True):
        held = cache.tail_length[s]
        first = cache.home.tail_start + s * cache.tail_room + held
        owner += [s] * len(row)
        order += [cache.prompt_length + held + i for i in range(len(row))]
        slots += range(first, first + len(row))
    cache.grow(sequences, tokens)
    ids = torch.tensor([token for row in tokens for token in row], device=device)
    places, at = torch.tensor(order, device=device), torch.tensor(slots, device=device)
    mask = cache.visible(torch.tensor(owner, device=device), places + 1)
    if unseen is not None:
        mask[:, at] &= ids != unseen
    hidden = language(
        language.embed_tokens(ids),
        *mrope_cos_sin((places + cache.rope_delta).expand(3, -1), language.config),
        ScatteredAttention(cache, at, mask),
    )
    last = torch.tensor([len(row) for row in tokens], device=device).cumsum(0) - 1
    return language.logits(hidden[last])


def finish_prompt(language: LanguageModel, cache: SegmentedCache, prompt: Prompt, length: int) -> torch.Tensor:
    """Run a prompt's tokens from `length` on, which are text; the cache holds those before.

    Returns:
        Logits (1, V) float32 at its last position.
    """
    device = cache.keys.device
    slots = torch.arange(length, len(prompt), device=device)
    mask = cache.visible(torch.full_like(slots, PROMPT), slots + 1)
    hidden = language(
        language.embed_tokens(prompt.ids[length:].to(device)),
        *mrope_cos_sin(prompt.positions[:, length:].to(device), language.config),
        ScatteredAttention(cache, slots, mask),
    )
    return language.logits(hidden[-1:])

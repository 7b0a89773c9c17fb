# SPDX-License-Identifier: Apache-2.0
"""Grouped attention of new tokens over a cache, in one call whatever they may see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from alpamayo_rt.engine.kv_cache import KvCache


@dataclass(frozen=True)
class CachedAttention:
    """Writes the new tokens' keys and values at `start` and attends over all slots up to and with them.

    Attributes:
        cache: where the keys and values go.
        start: the first of the N new tokens' slots.
        mask: (N, start + N) bool, which slots a token sees; None for a prompt (causal, from slot 0).
    """

    cache: KvCache
    start: int
    mask: torch.Tensor | None

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(heads, N, d), (kv heads, N, d), (kv heads, N, d) → (heads, N, d)."""
        end = self.start + k.shape[1]
        keys, values = self.cache.keys[layer, :, :end], self.cache.values[layer, :, :end]
        keys[:, self.start :], values[:, self.start :] = k, v
        groups = len(q) // len(keys)
        if self.mask is None:
            keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
            return F.scaled_dot_product_attention(q[None], keys[None], values[None], is_causal=True)[0]
        return masked_attention(q, keys, values, self.mask)


def masked_attention(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """(heads, N, d) over keys and values (kv heads, S, d) that a mask (N, S) bool admits → (heads, N, d)."""
    # Query heads of a group become further query rows of their key-value head: the cache is read in place.
    groups = len(q) // len(keys)
    rows = q.unflatten(0, (len(keys), groups)).flatten(1, 2)
    out = F.scaled_dot_product_attention(
        rows[None], keys[None], values[None], attn_mask=mask.repeat(groups, 1)
    )[0]
    return out.unflatten(1, (groups, -1)).flatten(0, 1)

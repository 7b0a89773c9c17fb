# SPDX-License-Identifier: Apache-2.0
"""What a decoder's `attend` does in an exported graph: the cache is an input, the operators are plain ones.

Products of queries and keys run in the model's type, softmax in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from alpamayo_rt.config import TextConfig

HIDDEN = -1e30
"""Added to the score of what must not be seen; finite, so that no row of hidden scores alone becomes NaN."""


def _weights(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.softmax(scores.float() + mask, -1).to(scores.dtype)


def hidden_from(length: torch.Tensor, size: int) -> torch.Tensor:
    """(…, 1) lengths → (…, size) float32: zero below the length, `HIDDEN` from it on."""
    places = torch.arange(size, device=length.device)
    return torch.where(places < length, 0.0, HIDDEN)


@dataclass
class FusedAttention:
    """The expert's attention over a cache that is repeated for every candidate.

    Attributes:
        config: of the expert.
        waypoints: W tokens a candidate.
        cache: (2·layers, B, kv heads, S, d), layer by layer, keys before values.
        mask: (B, 1, W, S + W) float32, added to the scores.
    """

    config: TextConfig
    waypoints: int
    cache: torch.Tensor
    mask: torch.Tensor

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(heads, B·W, d), (kv heads, B·W, d), (kv heads, B·W, d) → (heads, B·W, d)."""
        c, w = self.config, self.waypoints
        groups = c.num_heads // c.num_kv_heads
        q = q.view(c.num_kv_heads, groups, -1, w, c.head_dim).permute(2, 0, 1, 3, 4).flatten(2, 3)
        k, v = (x.view(c.num_kv_heads, -1, w, c.head_dim).transpose(0, 1) for x in (k, v))
        keys = torch.cat([self.cache[2 * layer].to(k.dtype), k], 2)
        values = torch.cat([self.cache[2 * layer + 1].to(v.dtype), v], 2)
        scores = (q * c.head_dim**-0.5) @ keys.transpose(2, 3)
        out = _weights(scores.unflatten(2, (groups, w)), self.mask[:, :, None]).flatten(2, 3) @ values
        return out.unflatten(2, (groups, w)).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1, 2)


@dataclass
class SharedAttention:
    """The expert's attention over one prefix for all candidates, a tail of each, and its own tokens.

    The prefix is read once: the query rows of all candidates are rows of one product with it.

    Attributes:
        config: of the expert.
        waypoints: W tokens a candidate.
        prefix: (2·layers, 1, kv heads, P, d), of which `prefix_length` (1,) places are seen.
        tail: (2·layers, B, kv heads, T, d), of which `tail_length` (B,) places are seen.
    """

    config: TextConfig
    waypoints: int
    prefix: torch.Tensor
    prefix_length: torch.Tensor
    tail: torch.Tensor
    tail_length: torch.Tensor
    mask: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        batch = self.tail.shape[1]
        before = hidden_from(self.prefix_length, self.prefix.shape[3]).expand(batch, -1)
        behind = hidden_from(self.tail_length[:, None], self.tail.shape[3])
        own = torch.zeros_like(behind[:, :1]).expand(-1, self.waypoints)
        self.mask = torch.cat([before, behind, own], 1)[None, :, None]

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(heads, B·W, d), (kv heads, B·W, d), (kv heads, B·W, d) → (heads, B·W, d)."""
        c, w = self.config, self.waypoints
        groups = c.num_heads // c.num_kv_heads
        q = q.view(c.num_kv_heads, groups, -1, w, c.head_dim).transpose(1, 2).flatten(2, 3) * c.head_dim**-0.5
        k, v = (x.view(c.num_kv_heads, -1, w, c.head_dim) for x in (k, v))
        keys, values = self.prefix[2 * layer, 0], self.prefix[2 * layer + 1, 0]
        k = torch.cat([self.tail[2 * layer].transpose(0, 1), k], 2)
        v = torch.cat([self.tail[2 * layer + 1].transpose(0, 1), v], 2)
        places, batch = keys.shape[1], self.tail.shape[1]
        rows = (c.num_kv_heads, batch, groups * w, -1)
        shared = (q.flatten(1, 2) @ keys.transpose(1, 2)).view(rows)
        weights = _weights(torch.cat([shared, q @ k.transpose(2, 3)], 3), self.mask)
        seen = (weights[..., :places].flatten(1, 2) @ values).view(rows)
        out = seen + weights[..., places:] @ v
        return out.unflatten(2, (groups, w)).transpose(1, 2).flatten(0, 1).flatten(1, 2)


@dataclass
class GrowingAttention:
    """The language model's attention: new tokens over cached ones; their keys and values are an output.

    Attributes:
        config: of the language model.
        cache: (2·layers, 1, kv heads, S, d).
        mask: (N, S + N) float32, added to the scores.
        new: the keys and values of the new tokens, (kv heads, N, d) each, layer by layer.
    """

    config: TextConfig
    cache: torch.Tensor
    mask: torch.Tensor
    new: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(heads, N, d), (kv heads, N, d), (kv heads, N, d) → (heads, N, d)."""
        c = self.config
        groups = c.num_heads // c.num_kv_heads
        self.new += [k, v]
        keys = torch.cat([self.cache[2 * layer, 0], k], 1)
        values = torch.cat([self.cache[2 * layer + 1, 0], v], 1)
        q = q.unflatten(0, (c.num_kv_heads, groups)).flatten(1, 2) * c.head_dim**-0.5
        scores = (q @ keys.transpose(1, 2)).unflatten(1, (groups, -1))
        out = _weights(scores, self.mask).flatten(1, 2) @ values
        return out.unflatten(1, (groups, -1)).flatten(0, 1)

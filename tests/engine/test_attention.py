# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.attention import CachedAttention
from alpamayo_rt.engine.kv_cache import KvCache


def naive(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Softmax attention in float64, head by head and token by token."""
    out = torch.zeros_like(q, dtype=torch.float64)
    group = len(q) // len(keys)
    for head in range(len(q)):
        k, v = keys[head // group].double(), values[head // group].double()
        for token in range(q.shape[1]):
            seen = mask[token].nonzero()[:, 0].tolist()
            scores = [float(q[head, token].double() @ k[j]) / math.sqrt(q.shape[2]) for j in seen]
            weights = [math.exp(s - max(scores)) for s in scores]
            for j, weight in zip(seen, weights, strict=True):
                out[head, token] += weight / sum(weights) * v[j]
    return out


def cache(kv_heads: int, capacity: int) -> KvCache:
    config = TextConfig(2, 8, 4, kv_heads, 8, 8, 1e-6, 1e4, (1, 1, 0), 10, 0)
    return KvCache.allocate(config, capacity, 0, 0, torch.device("cpu"), torch.float32)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 6), st.integers(1, 5))
seeds = st.integers(0, 2**32 - 1)


@given(shapes, seeds)
def test_masked_attention_equals_naive_softmax(shape: tuple[int, int, int, int], seed: int) -> None:
    kv_heads, group, start, n = shape
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(kv_heads * group, n, 8, generator=g)
    k, v = torch.randn(2, kv_heads, n, 8, generator=g)
    kv = cache(kv_heads, start + n + 2)
    for tensor in (kv.keys, kv.values):
        tensor.copy_(torch.randn(tensor.shape, generator=g))
    mask = torch.rand(n, start + n, generator=g) < 0.5
    mask[:, start:] |= torch.eye(n, dtype=torch.bool)
    before = kv.keys.clone()
    ours = CachedAttention(kv, start, mask)(1, q, k, v)
    keys, values = kv.keys[1, :, : start + n], kv.values[1, :, : start + n]
    assert torch.equal(keys[:, start:], k)
    assert torch.equal(values[:, start:], v)
    # The other layer and the other slots keep what they had.
    assert torch.equal(kv.keys[0], before[0])
    assert torch.equal(kv.keys[1, :, :start], before[1, :, :start])
    assert torch.equal(kv.keys[1, :, start + n :], before[1, :, start + n :])
    assert torch.allclose(ours.double(), naive(q, keys, values, mask), atol=1e-5)


@given(shapes, seeds)
def test_prompt_attention_is_causal(shape: tuple[int, int, int, int], seed: int) -> None:
    kv_heads, group, _, n = shape
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(kv_heads * group, n, 8, generator=g)
    k, v = torch.randn(2, kv_heads, n, 8, generator=g)
    ours = CachedAttention(cache(kv_heads, n), 0, None)(0, q, k, v)
    expected = naive(q, k, v, torch.ones(n, n, dtype=torch.bool).tril())
    assert torch.allclose(ours.double(), expected, atol=1e-5)


def test_masked_slot_has_no_influence_whatever_it_holds() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(4, 2, 8, generator=g), *torch.randn(2, 2, 2, 8, generator=g)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[:, 1] = False
    outs = []
    for filler in (0.0, 1e4):
        kv = cache(2, 5)
        kv.keys[0, :, 1], kv.values[0, :, 1] = filler, filler
        outs.append(CachedAttention(kv, 3, mask)(0, q, k, v))
    assert torch.equal(outs[0], outs[1])

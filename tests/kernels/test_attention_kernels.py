# SPDX-License-Identifier: Apache-2.0
"""Attention over a shared prefix: twins against plain float64 loops, kernels against the twins in float64."""

from __future__ import annotations

import os

import pytest
import torch
from interpreted import run_again_in_the_interpreter

from alpamayo_rt.kernels.attention import operations as ops
from alpamayo_rt.kernels.attention.scratch import (
    DecodeConfiguration,
    DecodeScratch,
    ExpertConfiguration,
    ExpertScratch,
    decode_configuration,
)
from alpamayo_rt.kernels.layers.decoder import qk_norm_rope, qk_norm_rope_twin

GPU = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]
BOUND = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 7e-3}
"""Relative L2 error; of the short types about the rounding of the output and of the weights."""


@pytest.fixture(params=GPU)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def random(*shape: int, seed: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def error(out: torch.Tensor, exact: torch.Tensor) -> float:
    assert bool(out.isfinite().all())
    return float((out.double() - exact).norm() / exact.norm().clamp_min(1e-30))


class Cache:
    """One layer, views into a larger buffer, NaN in every slot that nobody may see."""

    def __init__(
        self, kv_heads: int, dim: int, prefix: int, tails: list[int], room: int, dtype: torch.dtype, device: str
    ):
        self.start, self.room = prefix + 3, room
        capacity = self.start + room * len(tails) + 2
        buffer = random(capacity, 2, kv_heads, dim + 4, seed=1, dtype=dtype, device=device)
        used = torch.zeros(capacity, dtype=torch.bool)
        used[:prefix] = True
        for r, length in enumerate(tails):
            used[self.start + r * room : self.start + r * room + length] = True
        buffer[~used] = torch.nan
        both = buffer[..., :dim].permute(1, 2, 0, 3)
        self.keys, self.values = both[0], both[1]
        self.prefix = torch.tensor(prefix, device=device)
        self.tails = torch.tensor(tails, device=device, dtype=torch.int32)


def naive(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """One query (d,) over keys and values (S, d), in float64."""
    weights = torch.softmax((keys.double() @ q.double()) * scale, 0)
    return weights @ values.double()


class Step:
    """New tokens for every row of a cache: what the decode operation takes, in its order.

    A row whose tail has tokens sees its own as the last of them, which is not written yet; one without writes
    into the last slot of its tail, which it does not see.
    """

    eps = 1e-6

    def __init__(self, cache: Cache, heads: int, dtype: torch.dtype, device: str):
        (kv_heads, _, dim), rows = cache.keys.shape, len(cache.tails)
        self.cache, self.heads, self.scale = cache, heads, dim**-0.5
        self.qkv = random(rows, (heads + 2 * kv_heads) * dim + 8, seed=2, dtype=dtype, device=device)[:, :-8]
        self.weights = 1 + random(2, dim, seed=3, dtype=dtype, device=device) / 4
        angle = 40 * random(rows, dim // 2, seed=4, dtype=torch.float32, device=device)
        self.cos, self.sin = angle.cos(), angle.sin()
        own = torch.arange(rows, device=device) * cache.room + cache.start
        self.slots = own + torch.where(cache.tails > 0, cache.tails - 1, cache.room - 1)
        cache.keys[:, self.slots] = torch.nan
        cache.values[:, self.slots] = torch.nan
        self.seen = (cache.prefix, cache.start, cache.room, cache.tails, self.scale)

    def arguments(self, keys: torch.Tensor, values: torch.Tensor) -> tuple:
        token = (self.qkv, *self.weights, self.eps, self.cos, self.sin, self.slots)
        return *token, keys, values, *self.seen

    def in_two_steps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The cache afterwards, and the output as rounded queries and keys give it in float64."""
        keys, values = self.cache.keys.clone(), self.cache.values.clone()
        q = self.qkv.new_empty(len(self.qkv), self.heads, keys.shape[2])
        # Triton's interpreter cuts bfloat16 off where a GPU rounds, of the kernel for many tokens likewise.
        cuts = os.environ.get("TRITON_INTERPRET") == "1" and q.dtype == torch.bfloat16
        first = qk_norm_rope if cuts else qk_norm_rope_twin
        first(self.qkv, *self.weights, self.eps, self.cos, self.sin, self.slots, q, keys, values)
        exact = q.double()
        ops.decode_attention_twin(q.double(), keys.double(), values.double(), *self.seen, exact)
        return keys, values, exact

    def check_cache(self, expected_keys: torch.Tensor, expected_values: torch.Tensor) -> None:
        """The same slots written, with the same values; keys may round otherwise, once in a while."""
        keys, values = self.cache.keys, self.cache.values
        assert torch.equal(values.nan_to_num(7.0), expected_values.nan_to_num(7.0))
        assert torch.equal(keys.isnan(), expected_keys.isnan())
        other = torch.ones(keys.shape[1], dtype=torch.bool, device=keys.device)
        other[self.slots] = False
        assert torch.equal(keys[:, other].nan_to_num(7.0), expected_keys[:, other].nan_to_num(7.0))
        new, expected = keys[:, self.slots], expected_keys[:, self.slots]
        # Halves of a few units are added up, and the sum may be near zero.
        grain = torch.finfo(keys.dtype).eps
        assert torch.allclose(new, expected, rtol=8 * grain, atol=8 * grain)
        if keys.dtype != torch.float32:
            assert float((new != expected).float().mean()) < 0.02

    def plainly(self) -> torch.Tensor:
        """All in float64, a head of a row at a time."""
        kv_heads, _, dim = self.cache.keys.shape
        rows = self.qkv.double().unflatten(1, (-1, dim))
        angles = torch.atan2(self.sin.double(), self.cos.double()).repeat(1, 2)

        def turned(x: torch.Tensor, weight: torch.Tensor, r: int) -> torch.Tensor:
            x = x / (x.square().mean() + self.eps).sqrt() * weight.double()
            first, second = x.chunk(2)
            return x * angles[r].cos() + torch.cat([-second, first]) * angles[r].sin()

        out = torch.zeros(len(rows), self.heads, dim, dtype=torch.float64, device=rows.device)
        for r, length in enumerate(self.cache.tails.tolist()):
            first = self.cache.start + r * self.cache.room
            slots = [*range(int(self.cache.prefix)), *range(first, first + length - 1)]
            for h in range(self.heads):
                g = h // (self.heads // kv_heads)
                keys, values = self.cache.keys[g, slots].double(), self.cache.values[g, slots].double()
                if length:
                    key = turned(rows[r, self.heads + g], self.weights[1], r)
                    keys = torch.cat([keys, key[None]])
                    values = torch.cat([values, rows[r, None, self.heads + kv_heads + g]])
                if len(keys):
                    out[r, h] = naive(turned(rows[r, h], self.weights[0], r), keys, values, self.scale)
        return out


@pytest.mark.parametrize(("splits", "block_n"), [(3, 16), (1, 128)])
@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "dim", "prefix", "tails", "dtype"),
    [
        (1, 4, 1, 32, 75, [5], torch.float32),
        (1, 8, 2, 64, 40, [1], torch.bfloat16),
        (3, 6, 2, 24, 37, [0, 20, 7], torch.bfloat16),
        (5, 5, 1, 16, 0, [1, 2, 3, 4, 0], torch.float32),
        (2, 16, 2, 64, 70, [33, 1], torch.float16),
        (16, 8, 1, 16, 20, [*range(16)], torch.float32),
    ],
)
def test_decode_attention(
    rows: int,
    heads: int,
    kv_heads: int,
    dim: int,
    prefix: int,
    tails: list[int],
    dtype: torch.dtype,
    splits: int,
    block_n: int,
    device: str,
) -> None:
    cache = Cache(kv_heads, dim, prefix, tails, 34, dtype, device)
    step = Step(cache, heads, dtype, device)
    scratch = DecodeScratch.allocate(rows, heads, kv_heads, dim, device, DecodeConfiguration(splits, block_n))
    scratch.parts.fill_(torch.nan)
    plain = step.plainly()
    keys, values, exact = step.in_two_steps()
    twin = torch.full((rows, heads, dim), torch.nan, dtype=dtype, device=device)
    twins = cache.keys.clone(), cache.values.clone()
    ops.decode_attention_from_qkv_twin(*step.arguments(*twins), twin)
    assert error(twin, plain) < 2 * BOUND[dtype]  # it rounds queries and keys too
    out = torch.full((rows, heads, dim), torch.nan, dtype=dtype, device=device)
    ops.decode_attention_from_qkv(*step.arguments(cache.keys, cache.values), out, scratch)
    step.check_cache(keys, values)
    assert error(out, exact) < BOUND[dtype]


@pytest.mark.parametrize(
    ("candidates", "waypoints", "heads", "kv_heads", "dim", "prefix", "dtype", "splits", "half"),
    [
        (1, 5, 4, 2, 32, 50, torch.float32, 3, False),
        (3, 7, 6, 2, 24, 37, torch.bfloat16, 2, False),
        (2, 11, 4, 1, 16, 0, torch.float32, 4, False),
        (2, 9, 3, 3, 64, 64, torch.float16, 1, True),
    ],
)
def test_expert_attention(
    candidates: int,
    waypoints: int,
    heads: int,
    kv_heads: int,
    dim: int,
    prefix: int,
    dtype: torch.dtype,
    splits: int,
    half: bool,
    device: str,
) -> None:
    tails = [17, 0]
    cache = Cache(kv_heads, dim, prefix, tails, 20, dtype, device)
    reads = [(1 + c) % 2 for c in range(candidates)]
    lengths = [max(tails[s] - c, 0) for c, s in enumerate(reads)]
    q = random(candidates, waypoints, heads, dim + 8, seed=2, dtype=dtype, device=device)[..., :dim]
    own = random(candidates, waypoints, 2, kv_heads, dim, seed=3, dtype=dtype, device=device)
    own_keys, own_values = own[:, :, 0], own[:, :, 1]
    scratch = ExpertScratch.allocate(
        candidates, waypoints, heads, kv_heads, dim, device,
        ExpertConfiguration(splits, block_m=16, block_n=16, warps=4, registers=None, half_parts=half),
    )  # fmt: skip
    scratch.parts.fill_(torch.nan)
    arguments = (
        cache.prefix, cache.start, cache.room,
        torch.tensor(reads, device=device), torch.tensor(lengths, device=device),
    )  # fmt: skip
    exact = torch.empty(candidates, waypoints, heads, dim, dtype=torch.float64, device=device)
    ops.expert_attention_twin(
        q.double(), cache.keys.double(), cache.values.double(), *arguments,
        own_keys.double(), own_values.double(), dim**-0.5, exact,
    )  # fmt: skip
    for c in range(candidates):
        first = cache.start + reads[c] * cache.room
        slots = [*range(prefix), *range(first, first + lengths[c])]
        for h in range(heads):
            g = h // (heads // kv_heads)
            keys = torch.cat([cache.keys[g, slots], own_keys[c, :, g]])
            values = torch.cat([cache.values[g, slots], own_values[c, :, g]])
            for w in range(waypoints):
                expected = naive(q[c, w, h], keys, values, dim**-0.5)
                assert torch.allclose(exact[c, w, h], expected, atol=1e-12)
    out = torch.full((candidates, waypoints, heads, dim), torch.nan, dtype=dtype, device=device)
    ops.expert_attention(q, cache.keys, cache.values, *arguments, own_keys, own_values, dim**-0.5, out, scratch)
    assert error(out, exact) < BOUND[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "heads"), [(1, 32), (6, 32), (1, 64), (6, 64), (16, 64)])
def test_decode_attention_at_released_sizes(rows: int, heads: int) -> None:
    tails = [(7 * r) % 40 for r in range(rows)]
    cache = Cache(8, 128, 3117, tails, 257, torch.bfloat16, "cuda")
    step = Step(cache, heads, torch.bfloat16, "cuda")
    scratch = DecodeScratch.allocate(rows, heads, 8, 128, "cuda", decode_configuration(rows, heads, 8, 3328))
    keys, values, exact = step.in_two_steps()
    before = cache.keys.clone(), cache.values.clone()
    outs = []
    for _ in range(20):
        # The new token is read only once it has been written: what was there before is no number.
        cache.keys.copy_(before[0])
        cache.values.copy_(before[1])
        out = torch.full((rows, heads, 128), torch.nan, dtype=torch.bfloat16, device="cuda")
        ops.decode_attention_from_qkv(*step.arguments(cache.keys, cache.values), out, scratch)
        outs.append(out)
    step.check_cache(keys, values)
    assert error(outs[0], exact) < BOUND[torch.bfloat16]
    assert all(torch.equal(outs[0], out) for out in outs)


@pytest.mark.gpu
@pytest.mark.parametrize("candidates", [1, 6])
@pytest.mark.parametrize("heads", [16, 32])
def test_expert_attention_at_released_sizes(candidates: int, heads: int) -> None:
    cache = Cache(8, 128, 3117, [31, 250], 257, torch.bfloat16, "cuda")
    q = random(candidates, 64, heads, 128, seed=2, dtype=torch.bfloat16, device="cuda")
    own = random(2, candidates, 64, 8, 128, seed=3, dtype=torch.bfloat16, device="cuda")
    scratch = ExpertScratch.allocate(candidates, 64, heads, 8, 128, "cuda")
    reads = torch.arange(candidates, device="cuda") % 2
    arguments = (cache.prefix, cache.start, cache.room, reads, cache.tails[reads])
    exact = torch.empty(candidates, 64, heads, 128, dtype=torch.float64, device="cuda")
    ops.expert_attention_twin(
        q.double(), cache.keys.double(), cache.values.double(), *arguments, *own.double(), 128**-0.5, exact
    )
    out = torch.full(exact.shape, torch.nan, dtype=torch.bfloat16, device="cuda")
    ops.expert_attention(q, cache.keys, cache.values, *arguments, *own, 128**-0.5, out, scratch)
    assert error(out, exact) < BOUND[torch.bfloat16]


def test_kernels_in_the_interpreter() -> None:
    """The tests above once more with Triton's kernels, which run in numpy where there is no GPU."""
    run_again_in_the_interpreter(__file__)

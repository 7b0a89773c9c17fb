# SPDX-License-Identifier: Apache-2.0
"""Choosing without a sort: against the engine's `choose`, against float64, and where sorts get difficult."""

from __future__ import annotations

import math
import os
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from interpreted import run_again_in_the_interpreter

from alpamayo_rt.engine.sampling import Sampling, choose
from alpamayo_rt.kernels.sampling import operations as ops

GPU = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]
ALMOST_ONE = 1 - 2**-53
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SMALL = ops.SamplingConfiguration(programs=2, block=32, warps=4, bins=32, ways=16, search_block=64)
"""Several programs, blocks and searches even for a few logits; slow kernels have few programs to interpret."""


@pytest.fixture(params=GPU)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def on_device(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    sampling: Sampling,
    masked: tuple[tuple[int, int], ...] = (),
    device: str = DEVICE,
    configuration: ops.SamplingConfiguration | None = SMALL,
) -> list[int]:
    rows, size = logits.shape
    # Rows that do not begin on a round address, in a buffer whose rest must not matter.
    buffer = torch.full((rows, size + 3), torch.nan)
    buffer[:, 1 : size + 1] = logits
    mine = buffer.to(device)[:, 1 : size + 1]
    scratch = ops.SamplingScratch.allocate(rows, size, device, configuration)
    for part in (scratch.best, scratch.masses, scratch.counts, scratch.ranges, scratch.found, scratch.counters):
        part.fill_(77)  # nothing outlives a call
    out = torch.full((rows,), -1, device=device)
    ops.choose_tokens(
        mine,
        uniforms.to(device),
        ops.sampling_settings(sampling.temperature, sampling.top_p, sampling.top_k, device),
        torch.tensor([*masked, (0, 0)], device=device),
        out,
        scratch,
    )
    assert torch.equal(mine.cpu(), logits)
    return out.tolist()


def ordered_masses(
    logits: list[float], sampling: Sampling, masked: tuple[int, int]
) -> tuple[list[int], list[float]]:
    """Ids that top-k admits, likeliest first, and the sums of their probabilities, in float64."""
    allowed = [i for i in range(len(logits)) if not masked[0] <= i < masked[1]]
    order = sorted(allowed, key=lambda i: -logits[i])
    if sampling.top_k is not None and sampling.top_k < len(order):
        order = [i for i in order if logits[i] >= logits[order[sampling.top_k - 1]]]
    weights = [math.exp((logits[i] - logits[order[0]]) / sampling.temperature) for i in order]
    return order, [s / sum(weights) for s in accumulate(weights)]


@given(
    st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=70),
    st.floats(0, 1, exclude_max=True),
    st.builds(
        Sampling,
        temperature=st.floats(0.1, 3),
        top_p=st.floats(0.05, 1),
        top_k=st.none() | st.integers(2, 80),
    ),
    st.integers(0, 69),
    st.integers(0, 30),
)
@settings(max_examples=10 if INTERPRETED else 80)
def test_choice_equals_the_inverse_of_the_distribution_in_float64(
    logits: list[float], uniform: float, sampling: Sampling, first: int, count: int
) -> None:
    masked = (first, min(first + count, len(logits)))
    assume(masked[1] - max(masked[0], 0) < len(logits))
    ids, sums = ordered_masses(logits, sampling, masked)
    assume(all(abs(s - sampling.top_p) > 1e-5 for s in sums[:-1]))
    last = next((i for i, s in enumerate(sums) if s >= sampling.top_p), len(ids) - 1)
    target = uniform * sums[last]
    assume(all(abs(s - target) > 1e-5 for s in sums[:last]))
    expected = next(i for i, s in zip(ids, sums, strict=True) if s > target)
    uniforms = torch.tensor([uniform], dtype=torch.float64)
    assert on_device(torch.tensor([logits]), uniforms, sampling, (masked,)) == [expected]
    # Both round their sums otherwise than float64 does, and still the engine's own choice is the same.
    assert choose(torch.tensor([logits]), uniforms, sampling, (masked,)).tolist() == [expected]


KINDS = ["random", "short", "flat", "one hot", "holes", "outlier", "wide"]
SAMPLINGS = [
    Sampling(0.6, 0.98),
    Sampling(1.0, 1.0),
    Sampling(3.0, 0.5, 40),
    Sampling(1.0, 1.0, 400),
    Sampling(0),
    Sampling(1.0, 1e-9),
]
# The interpreter takes half a second each: there, a third of the pairs.
PAIRS = [
    (sampling, kind)
    for i, sampling in enumerate(SAMPLINGS)
    for j, kind in enumerate(KINDS)
    if not INTERPRETED or (i + j) % 3 == 0
]


@pytest.mark.parametrize(("sampling", "kind"), PAIRS)
def test_difficult_rows(sampling: Sampling, kind: str, device: str) -> None:
    generator = torch.Generator().manual_seed(3)
    rows, size = (1, 130) if INTERPRETED else (4, 331)
    logits = torch.randn(rows, size, generator=generator) * 2
    if kind == "short":
        logits = logits.bfloat16().float()  # hundreds of ties
    elif kind == "flat":
        logits[:] = -1.25
    elif kind == "one hot":
        logits[:] = -100.0
        logits[:, 77] = 100.0
    elif kind == "holes":
        logits[:, ::3] = -torch.inf
        logits[:, 1] = -0.0
        logits[:, 4] = 0.0
    elif kind == "outlier":
        logits = logits * 1e-3
        logits[:, 9] += 9.0
    elif kind == "wide":
        logits = logits * 1e4
    uniforms = torch.rand(rows, generator=generator, dtype=torch.float64)
    uniforms[-1] = ALMOST_ONE if rows > 1 else 0.7
    masked = ((0, 5), (60, 70))
    expected = choose(logits, uniforms, sampling, masked).tolist()
    assert on_device(logits, uniforms, sampling, masked, device) == expected


@pytest.mark.parametrize("uniform", [0.0, ALMOST_ONE])
def test_extreme_draws(uniform: float, device: str) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, -torch.inf, 0.5]])
    uniforms = torch.tensor([uniform], dtype=torch.float64)
    lowest = {Sampling(1.0, 1.0): 5, Sampling(1.0, 0.7): 3, Sampling(1.0, 1.0, 2): 3, Sampling(1.0, 1.0, 9): 5}
    for sampling, last in lowest.items():
        assert on_device(logits, uniforms, sampling, (), device) == [last if uniform else 1]


def test_nothing_allowed_gives_token_0(device: str) -> None:
    logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    logits[1] = -torch.inf
    uniforms = torch.tensor([0.3, 0.9], dtype=torch.float64)
    for sampling in (Sampling(), Sampling(0)):
        assert on_device(logits, uniforms, sampling, ((0, 40),), device) == [0, 0]


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 6, 16])
@pytest.mark.parametrize("kind", ["bfloat16", "random", "flat", "peaked"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, 1.0), Sampling(1.0, 0.9, 50), Sampling(0)])
def test_released_size_on_a_gpu(rows: int, kind: str, sampling: Sampling) -> None:
    """Against the twin, which chooses by a sort; a float32 exponential may round otherwise: one draw in 1e5."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, 155_697, generator=generator)
    if kind == "bfloat16":
        logits = (logits * 1.3).bfloat16().float()
    elif kind == "flat":
        logits[:] = 3.0
    elif kind == "peaked":
        logits = logits * 5
    masked = torch.tensor([[151_669, 155_670], [0, 0]], device="cuda")
    scratch = ops.SamplingScratch.allocate(rows, logits.shape[1], "cuda")
    choice = ops.sampling_settings(sampling.temperature, sampling.top_p, sampling.top_k, "cuda")
    mine = logits.cuda()
    same = total = 0
    for _ in range(8):
        uniforms = torch.rand(rows, generator=generator, dtype=torch.float64).cuda()
        out, again, expected = (torch.full((rows,), -1, device="cuda") for _ in range(3))
        ops.choose_tokens(mine, uniforms, choice, masked, out, scratch)
        ops.choose_tokens(mine, uniforms, choice, masked, again, scratch)
        assert torch.equal(out, again)
        ops.choose_tokens_twin(mine, uniforms, choice, masked, expected)
        same += int((out == expected).sum())
        total += rows
    # With 155,697 tokens of similar mass, 1e-7 of the whole is a hundredth of a token.
    assert same >= (total if kind == "flat" or sampling.greedy else 0.9 * total)


def test_kernels_in_the_interpreter() -> None:
    run_again_in_the_interpreter(__file__)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from alpamayo_rt.engine.sampling import Sampling, choose, draw_uniforms

ALMOST_ONE = 1 - 2**-53
logit_rows = st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=20)
settings_of_choice = st.builds(
    Sampling,
    temperature=st.floats(0.1, 3),
    top_p=st.floats(0.05, 1),
    top_k=st.none() | st.integers(2, 25),
)


def naive_distribution(
    logits: list[float], sampling: Sampling, masked: tuple[int, int] | None
) -> list[tuple[int, float]]:
    """(id, probability) of every token that may be chosen, likeliest first, in float64."""
    allowed = [i for i in range(len(logits)) if masked is None or not masked[0] <= i < masked[1]]
    order = sorted(allowed, key=lambda i: -logits[i])
    if sampling.top_k is not None and sampling.top_k < len(order):
        smallest = logits[order[sampling.top_k - 1]]
        order = [i for i in order if logits[i] >= smallest]
    weights = [math.exp((logits[i] - logits[order[0]]) / sampling.temperature) for i in order]
    kept, mass = [], 0.0
    for i, weight in zip(order, weights, strict=True):
        if kept and mass >= sampling.top_p:
            break
        kept.append((i, weight / sum(weights)))
        mass += weight / sum(weights)
    total = sum(p for _, p in kept)
    return [(i, p / total) for i, p in kept]


def chosen(logits: list[float], uniform: float, sampling: Sampling, masked: tuple[int, int] | None) -> int:
    uniforms = torch.tensor([uniform], dtype=torch.float64)
    return int(choose(torch.tensor([logits]), uniforms, sampling, () if masked is None else (masked,)))


def border(logits: list[float], sampling: Sampling) -> bool:
    """Whether the mass comes so close to top-p that float32 may cut elsewhere."""
    everything = naive_distribution(logits, Sampling(sampling.temperature, 1.0, sampling.top_k), None)
    return any(abs(m - sampling.top_p) < 1e-5 for m in accumulate(p for _, p in everything))


@given(logit_rows, st.floats(0, 1, exclude_max=True), settings_of_choice)
def test_choice_equals_a_naive_inverse_of_the_distribution(
    logits: list[float], uniform: float, sampling: Sampling
) -> None:
    assume(not border(logits, sampling))
    distribution = naive_distribution(logits, sampling, None)
    edges = list(accumulate(p for _, p in distribution))
    assume(all(abs(edge - uniform) > 1e-5 for edge in edges[:-1]))
    expected = next((i for (i, _), edge in zip(distribution, edges, strict=True) if uniform < edge), None)
    assert chosen(logits, uniform, sampling, None) == (distribution[-1][0] if expected is None else expected)


@given(
    logit_rows,
    st.sampled_from([0.0, 2**-53, 0.5, 1 - 2**-24, ALMOST_ONE]),
    settings_of_choice,
    st.integers(0, 19),
    st.integers(1, 20),
)
@example([0.0] * 20, ALMOST_ONE, Sampling(1.0, 1.0), 3, 17)
@example([0.0, -8.0, -8.0], ALMOST_ONE, Sampling(0.1, 1.0, 2), 0, 1)
def test_masked_ids_are_never_chosen_however_extreme_the_draw(
    logits: list[float], uniform: float, sampling: Sampling, first: int, count: int
) -> None:
    masked = (min(first, len(logits) - 1), min(first + count, len(logits)))
    assume(masked[1] - masked[0] < len(logits))
    token = chosen(logits, uniform, sampling, masked)
    assert not masked[0] <= token < masked[1]
    assert 0 <= token < len(logits)


def test_last_draw_stays_clear_of_the_mask_for_any_sum_of_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 4462, generator=generator) * 2
    uniforms = torch.full((500,), ALMOST_ONE, dtype=torch.float64)
    tokens = choose(logits, uniforms, Sampling(1.0, 1.0), ((434, 4434),))
    assert not bool(((tokens >= 434) & (tokens < 4434)).any())


@given(logit_rows, st.floats(0, 1, exclude_max=True), st.integers(0, 18))
@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0), Sampling(top_k=1), Sampling(top_p=0), Sampling(top_p=1e-12)]
)
def test_greedy_spellings_take_the_best_allowed_token(
    sampling: Sampling, logits: list[float], uniform: float, first: int
) -> None:
    masked = (min(first, len(logits) - 1), min(first + 1, len(logits)))
    allowed = [v for i, v in enumerate(logits) if not masked[0] <= i < masked[1]]
    assert logits[chosen(logits, uniform, sampling, masked)] == max(allowed)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0, 1.0), Sampling(0.6, 0.98), Sampling(1.5, 0.7), Sampling(1.0, 1.0, 3), Sampling(2.0, 0.8, 6)],
)
def test_frequencies_are_the_probabilities(sampling: Sampling) -> None:
    logits, masked, n = [1.0, 0.2, -0.5, 3.0, 0.9, -2.0, 1.4, 0.0], (3, 4), 20_000
    uniforms = draw_uniforms(1, n, 7)[0]
    tokens = choose(torch.tensor([logits]).expand(n, -1), uniforms, sampling, (masked,))
    counts = torch.bincount(tokens, minlength=8).tolist()
    expected = dict(naive_distribution(logits, sampling, masked))
    for token, count in enumerate(counts):
        p = expected.get(token, 0.0)
        assert abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)), token


def test_rows_are_chosen_independently_and_logits_are_left_alone() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))
    before, uniforms = logits.clone(), draw_uniforms(5, 1, 0)[:, 0]
    together = choose(logits, uniforms, Sampling(), ((3, 6),))
    alone = [int(choose(logits[[r]], uniforms[[r]], Sampling(), ((3, 6),))) for r in range(5)]
    assert together.tolist() == alone
    assert torch.equal(logits, before)


def test_ties_with_the_kth_value_stay() -> None:
    logits = [2.0, 1.0, 1.0, 1.0, 0.0]
    uniforms = [i / 50 for i in range(50)]
    tokens = {chosen(logits, u, Sampling(1.0, 1.0, 2), None) for u in uniforms}
    assert tokens == {0, 1, 2, 3}


@given(st.integers(1, 5), st.integers(0, 5), st.integers(1, 40), st.integers(0, 40), st.integers(0, 2**63 - 1))
def test_uniforms_of_a_row_depend_on_nothing_but_seed_and_row(
    rows: int, more_rows: int, length: int, more: int, seed: int
) -> None:
    few, many = draw_uniforms(rows, length, seed), draw_uniforms(rows + more_rows, length, seed)
    assert torch.equal(few, many[:rows])
    assert bool((few >= 0).all())
    assert bool((few < 1).all())
    assert few.dtype == torch.float64
    # A longer limit of the same request starts with the same numbers.
    assert torch.equal(draw_uniforms(rows, length + more, seed)[:, :length], few)


def test_uniforms_differ_by_row_and_seed() -> None:
    rows = draw_uniforms(50, 3, 0)
    assert len({tuple(row) for row in torch.cat([rows, draw_uniforms(50, 3, 1)]).tolist()}) == 100

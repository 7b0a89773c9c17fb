# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt import InputError
from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.kv_cache import PROMPT, KvCache

CONFIG = TextConfig(2, 8, 2, 2, 4, 8, 1e-6, 1e4, (1, 1, 0), 10, 0)


def cache_of(prompt: int, writers: list[int]) -> KvCache:
    """A prompt, then one token of each of `writers` in turn."""
    cache = KvCache.allocate(CONFIG, prompt + len(writers) + 3, prompt, -1, torch.device("cpu"), torch.float32)
    cache.claim(torch.full((prompt,), PROMPT), torch.arange(prompt))
    for at, writer in enumerate(writers):
        cache.claim(torch.tensor([writer]), torch.tensor([prompt + writers[:at].count(writer)]))
    return cache


histories = st.tuples(st.integers(1, 5), st.lists(st.integers(0, 3), max_size=12))


@given(histories, st.integers(0, 3), st.integers(0, 14))
def test_visible_equals_a_naive_loop(history: tuple[int, list[int]], sequence: int, below: int) -> None:
    prompt, writers = history
    expected = [i < below for i in range(prompt)]
    for at, writer in enumerate(writers):
        expected.append(writer == sequence and prompt + writers[:at].count(writer) < below)
    cache = cache_of(prompt, writers)
    visible = cache.visible(torch.tensor([sequence, sequence]), torch.tensor([below, 0]))
    assert visible.tolist() == [expected, [False] * len(expected)]


@given(histories, st.integers(0, 3))
def test_slots_of_a_sequence_are_the_prompt_and_its_own_in_order(
    history: tuple[int, list[int]], sequence: int
) -> None:
    prompt, writers = history
    slots = cache_of(prompt, writers).sequence_slots(sequence)
    own = [prompt + at for at, writer in enumerate(writers) if writer == sequence]
    assert slots.tolist() == [*range(prompt), *own]
    assert cache_of(prompt, writers).order[slots].tolist() == list(range(len(slots)))


def test_unclaimed_slots_are_invisible_to_everyone() -> None:
    assert cache_of(2, [0]).visible(torch.tensor([0]), torch.tensor([100])).shape == (1, 3)


def test_claim_returns_the_next_slots_and_refuses_more_than_were_set_aside() -> None:
    cache = cache_of(2, [0, 1])
    assert cache.claim(torch.tensor([0, 1]), torch.tensor([3, 3])) == slice(4, 6)
    with pytest.raises(InputError, match="needs 8 cache slots, 7 were set aside"):
        cache.claim(torch.tensor([0, 1]), torch.tensor([4, 4]))
    assert cache.length == 6

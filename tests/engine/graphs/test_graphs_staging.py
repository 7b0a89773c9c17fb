# SPDX-License-Identifier: Apache-2.0
"""Fields in one block on either side, and how the host follows what the device said."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import Pair, greedy, started
from situations import driving_sample

from alpamayo_rt.engine.base import FINISHED, LIMIT, NO_TRAJECTORY_TOKEN
from alpamayo_rt.engine.graphs.cache import SegmentedCache
from alpamayo_rt.engine.graphs.rollout import ending
from alpamayo_rt.engine.graphs.staging import ALIGNMENT, Staging
from alpamayo_rt.engine.sampling import StopRule, draw_uniforms
from alpamayo_rt.kernels.rollout import operations as ops

CPU = torch.device("cpu")
CLOSING, END, LIMIT_OF = 33, 2, 6
TYPES = (torch.int64, torch.float64, torch.int32, torch.float32, torch.uint8)

shapes = st.lists(st.integers(1, 9), max_size=3).map(tuple)


@given(st.lists(st.tuples(shapes, st.sampled_from(TYPES)), min_size=1, max_size=6))
def test_fields_have_places_of_their_own(described: list[tuple[tuple[int, ...], torch.dtype]]) -> None:
    staging = Staging(CPU, **{f"field{i}": field for i, field in enumerate(described)})
    here = staging.here()
    for i, (name, tensor) in enumerate(here.items()):
        assert (tuple(tensor.shape), tensor.dtype) == described[i]
        assert tensor.is_contiguous()
        assert not bool(tensor.any())
        assert (tensor.data_ptr() - here["field0"].data_ptr()) % ALIGNMENT == 0
        tensor.copy_(torch.arange(i, i + prod(tensor.shape)).view(tensor.shape))
        assert name in staging.there
    staging.send()
    for i, tensor in enumerate(staging.there.values()):
        assert torch.equal(tensor.flatten().long(), torch.arange(i, i + tensor.numel()))


def test_what_was_written_stays_until_it_is_written_again() -> None:
    staging = Staging(CPU, a=((3,), torch.int64), b=((), torch.float64))
    places = {name: tensor.data_ptr() for name, tensor in staging.there.items()}
    for value in (1, 2):
        here = staging.here()
        here["a"].fill_(value)
        if value == 1:
            here["b"].fill_(0.5)
        staging.send()
        assert staging.there["a"].tolist() == [value] * 3
        assert float(staging.there["b"]) == 0.5
    assert {name: tensor.data_ptr() for name, tensor in staging.there.items()} == places


class Slow:
    """A stand-in for the event behind a copy that takes its time."""

    def __init__(self) -> None:
        self.looked, self.waited = 0, 0

    def query(self) -> bool:
        self.looked += 1
        return self.looked > 1

    def synchronize(self) -> None:
        self.waited += 1


def test_the_host_writes_again_only_when_the_copy_before_has_run() -> None:
    staging, event = Staging(CPU, a=((3,), torch.int64)), Slow()
    staging._sent = event  # type: ignore[assignment]
    staging.here()
    assert event.waited == 1
    staging.here()
    assert event.waited == 1


@pytest.mark.gpu
def test_copies_on_a_gpu_are_ordered_and_nobody_waits_for_them() -> None:
    device = torch.device("cuda")
    staging = Staging(device, numbers=((1000,), torch.int64), last=((), torch.float32))
    assert all(tensor.is_cuda and tensor.data_ptr() % ALIGNMENT == 0 for tensor in staging.there.values())
    read = []
    torch.cuda.synchronize()
    for value in range(4):
        here = staging.here()  # waits, from the second time on: the copy before is behind a spin
        here["numbers"].fill_(value)
        here["last"].fill_(value)
        torch.cuda._sleep(5_000_000)
        torch.cuda.set_sync_debug_mode("error")
        try:
            staging.send()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert not staging._sent.query()  # type: ignore[union-attr]
        read.append((staging.there["numbers"].clone(), staging.there["last"].clone()))
    for value, (numbers, last) in enumerate(read):
        assert numbers.eq(value).all()
        assert float(last) == value


tails = st.tuples(st.integers(0, LIMIT_OF), st.sampled_from([CLOSING, END, 8]))


@settings(max_examples=25)
@given(st.lists(tails, min_size=1, max_size=4), st.sampled_from([CLOSING, None]))
def test_the_host_concludes_what_the_device_knows(rows: list[tuple[int, int]], closing: int | None) -> None:
    """`ending` against `done`, `count` and `tail_length` of the device's own stop test."""
    rule, limit = StopRule((), closing, END), LIMIT_OF
    given_ = ops.RolloutInput.allocate(len(rows), limit, "cpu")
    state = ops.RolloutState.allocate(len(rows), limit, "cpu")
    given_.forced.fill_(5)
    for row, (before, last) in zip(given_.forced, rows, strict=True):
        row[before : before + 1] = last
    given_.rule.copy_(torch.tensor([-1 if closing is None else closing, END, limit]))
    state.history.fill_(-1)
    for _ in range(limit + 1):
        ops.advance(torch.zeros(len(rows), dtype=torch.int64), given_, state, 0, limit + 1)
    ended = FINISHED if closing is None else NO_TRAJECTORY_TOKEN
    reasons = {ops.CLOSED: FINISHED, ops.SAID_END: ended, ops.AT_LIMIT: LIMIT}
    for r, history in enumerate(state.history.tolist()):
        said = [token for token in history if token >= 0]
        assert len(said) == int(state.count[r])
        assert ending(said, rule, limit) == (reasons[int(state.done[r])], int(state.tail_length[r]))


def test_columns_follow_the_tails(tiny: Pair) -> None:
    """`owner` and `order` are made when they are looked at, and again when the tails have grown."""
    cache, logits, *_ = started(tiny.graph_model, driving_sample((1,)), 500)
    assert isinstance(cache, SegmentedCache)
    n = cache.prompt_length
    assert cache.sequence_slots(0).tolist() == list(range(n))
    forced = torch.tensor([[5, CLOSING, -1, -1], [5, 6, 7, CLOSING]])
    rule = StopRule((), CLOSING, END)
    tiny.graphs.reason(cache, logits, greedy(6), rule, draw_uniforms(2, 6, 0), forced)
    assert cache.tail_length == [2, 4]
    for sequence, held in enumerate(cache.tail_length):
        slots = cache.sequence_slots(sequence)
        first = cache.home.tail_start + sequence * cache.tail_room
        assert slots.tolist() == [*range(n), *range(first, first + held)]
        assert cache.order[slots].tolist() == list(range(n + held))
    # Nothing else is anybody's.
    assert int((cache.owner >= 0).sum()) == 6
    assert int((cache.owner == -1).sum()) == n
    tiny.graphs.append(cache, [1], [[8, 9]])
    assert cache.order[cache.sequence_slots(1)].tolist() == list(range(n + 6))

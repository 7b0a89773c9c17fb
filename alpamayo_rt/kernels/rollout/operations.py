# SPDX-License-Identifier: Apache-2.0
"""After each choice: who goes on, with which token, where it is stored, and what the host is told.

The order of things, all on the device, R rows that share a prompt:

    step = 0 · prefill · uniform = uniforms[:, 0] · choose → chosen · advance
    repeat: decode pass (runs `token`, writes its keys at `slot`, attends to `attended` tokens of the tail)
            · choose with `uniform` → chosen · advance

The host reads flags[s] after the call of step s: GO_ON, ONE_MORE (every row that goes on has the closing token
next: one pass puts it into the cache, and what it samples is dropped), or ENDED. Passes after ENDED are masked:
they and their calls change nothing that counts, so that the host may be some steps late.

`advance` is a Triton kernel on a GPU (and everywhere under TRITON_INTERPRET=1), and torch elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpamayo_rt.kernels.dispatch import uses_triton

GOING, CLOSED, SAID_END, AT_LIMIT = range(4)
"""States of a row: goes on; its closing token was run; it sampled the end token; it sampled its last token."""
GO_ON, ONE_MORE, ENDED = 1, 2, 3
"""What the host is told."""


@dataclass(frozen=True)
class RolloutInput:
    """Written by the host before the first call, and not changed.

    Attributes:
        forced: (R, C) int64, ids that are taken whatever was chosen; −1: as chosen. C is the most that `limit`
            may be.
        uniforms: (R, C) float64, the numbers that choose the tokens.
        rule: (3,) int64: closing token and end token (−1 where there is none), and the limit, 1 … C. It counts
            every token that is sampled, the dropped one after the closing token too: a row whose closing token
            is the last one allowed is AT_LIMIT.
        first_position: () int64, position of a tail's first token: prompt length + rope delta.
    """

    forced: torch.Tensor
    uniforms: torch.Tensor
    rule: torch.Tensor
    first_position: torch.Tensor

    @classmethod
    def allocate(cls, rows: int, capacity: int, device: torch.device | str) -> RolloutInput:
        """For R rows of at most C tokens; nothing forced."""
        return cls(
            torch.full((rows, capacity), -1, device=device),
            torch.zeros(rows, capacity, dtype=torch.float64, device=device),
            torch.tensor([-1, -1, capacity], device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )


@dataclass(frozen=True)
class RolloutState:
    """Changed by `advance` alone, once `step` was set to 0; nothing else has to be reset.

    Between two calls, for rows that go on / for rows that have ended:

    Attributes:
        step: () int64, calls so far, which is the tokens that a row that goes on has sampled.
        done: (R,) int32, GOING … AT_LIMIT.
        token: (R,) int64, what the next pass runs / the last token said.
        tail_length: (R,) int32, tokens of the tail that are in the cache, `token` not among them. At the end,
            this is what the expert may attend to.
        attended: (R,) int32, what the next pass attends to: tail_length + 1 / tail_length.
        slot: (R,) int64, where the next pass writes: tail_start + r · tail_room + tail_length / the same, where
            nobody looks. A tail therefore needs room for one token more than the limit.
        position: (R,) int64, of `token`: first_position + tail_length.
        count: (R,) int32, tokens said.
        history: (R, C) int64, what was said, `count` tokens; the rest is left over from earlier rollouts.
        uniform: (R,) float64, for the next choice: uniforms[:, step], or 0 past the table's end.
        flags: (C + 1,) int32 in pinned host memory where there is a GPU; flags[s] is written by the call of
            step s, later calls than C overwrite the last one. The host zeroes what it wants to see written.
    """

    step: torch.Tensor
    done: torch.Tensor
    token: torch.Tensor
    tail_length: torch.Tensor
    attended: torch.Tensor
    slot: torch.Tensor
    position: torch.Tensor
    count: torch.Tensor
    history: torch.Tensor
    uniform: torch.Tensor
    flags: torch.Tensor

    @classmethod
    def allocate(cls, rows: int, capacity: int, device: torch.device | str) -> RolloutState:
        """For R rows of at most C tokens."""

        def buffer(dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(rows, dtype=dtype, device=device)

        return cls(
            step=torch.zeros((), dtype=torch.int64, device=device),
            done=buffer(torch.int32),
            token=buffer(torch.int64),
            tail_length=buffer(torch.int32),
            attended=buffer(torch.int32),
            slot=buffer(torch.int64),
            position=buffer(torch.int64),
            count=buffer(torch.int32),
            history=torch.zeros(rows, capacity, dtype=torch.int64, device=device),
            uniform=buffer(torch.float64),
            flags=torch.zeros(capacity + 1, dtype=torch.int32, pin_memory=torch.device(device).type == "cuda"),
        )


def advance(
    chosen: torch.Tensor, given: RolloutInput, state: RolloutState, tail_start: int, tail_room: int
) -> None:
    """Take what was chosen into the state, after the prefill or after a decode pass.

    A row whose `token` was the closing one is CLOSED and says no more. Every other row that goes on says what
    was forced or chosen; with the end token it has SAID_END, with its last token it is AT_LIMIT, and neither is
    run.

    Args:
        chosen: (R,) int64 from the logits of the prompt's last position (step 0) or of the pass over `token`.
            What stands there for rows that have ended does not matter.
        given: the request.
        state: is changed.
        tail_start: first slot of the first tail.
        tail_room: slots of a tail.
    """
    if uses_triton(chosen):
        from alpamayo_rt.kernels.rollout import triton_kernels

        triton_kernels.advance(chosen, given, state, tail_start, tail_room)
    else:
        advance_twin(chosen, given, state, tail_start, tail_room)


def advance_twin(
    chosen: torch.Tensor, given: RolloutInput, state: RolloutState, tail_start: int, tail_room: int
) -> None:
    """See `advance`."""
    capacity = state.history.shape[1]
    closing, end, limit = given.rule.unbind()
    first = state.step == 0
    done, tail, count = (torch.where(first, 0, x) for x in (state.done, state.tail_length, state.count))
    ran = (done == GOING) & ~first
    tail = tail + ran.int()
    done = torch.where(ran & (state.token == closing), CLOSED, done)
    speaks = done == GOING
    here = state.step.clamp(max=capacity - 1)
    forced = given.forced.index_select(1, here[None])[:, 0]
    said = torch.where(forced >= 0, forced, chosen)
    token = torch.where(speaks, said, state.token)
    old = state.history.index_select(1, here[None])[:, 0]
    state.history.index_copy_(1, here[None], torch.where(speaks, said, old)[:, None])
    done = torch.where(speaks & (said == end), SAID_END, done)
    done = torch.where((done == GOING) & (state.step + 1 >= limit), AT_LIMIT, done)
    going = done == GOING
    state.count.copy_(count + speaks.int())
    state.done.copy_(done)
    state.token.copy_(token)
    state.tail_length.copy_(tail)
    state.attended.copy_(tail + going.int())
    rows = torch.arange(len(tail), device=tail.device)
    state.slot.copy_(tail_start + rows * tail_room + tail)
    state.position.copy_(given.first_position + tail)
    code = torch.where((going & (token != closing)).any(), GO_ON, torch.where(going.any(), ONE_MORE, ENDED))
    state.flags[int(state.step.clamp(max=capacity))] = int(code)
    state.step.add_(1)
    following = given.uniforms.index_select(1, state.step.clamp(max=capacity - 1)[None])[:, 0]
    state.uniform.copy_(torch.where(state.step < capacity, following, 0.0))

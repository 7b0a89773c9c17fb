# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of `operations.advance`: one program, one lane a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.rollout import operations as ops
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps

_GOING, _CLOSED = tl.constexpr(ops.GOING), tl.constexpr(ops.CLOSED)
_SAID_END, _AT_LIMIT = tl.constexpr(ops.SAID_END), tl.constexpr(ops.AT_LIMIT)
_GO_ON, _ONE_MORE, _ENDED = tl.constexpr(ops.GO_ON), tl.constexpr(ops.ONE_MORE), tl.constexpr(ops.ENDED)


@triton.jit
def _advance(
    chosen,
    forced,
    uniforms,
    rule,
    first_position,
    steps,
    done_rows,
    tokens,
    tail_lengths,
    attended,
    slots,
    positions,
    counts,
    history,
    uniform,
    flags,
    tail_start,
    tail_room,
    rows,
    capacity,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_the_kernel_before(OVERLAP)
    row = tl.arange(0, BLOCK)
    here = row < rows
    step = tl.load(steps) + tl.zeros([BLOCK], tl.int64)
    closing, end, limit = tl.load(rule), tl.load(rule + 1), tl.load(rule + 2)
    first = step == 0
    done = tl.where(first, _GOING, tl.load(done_rows + row, mask=here, other=0))
    tail = tl.where(first, 0, tl.load(tail_lengths + row, mask=here, other=0))
    count = tl.where(first, 0, tl.load(counts + row, mask=here, other=0))
    token = tl.load(tokens + row, mask=here, other=0)
    ran = (done == _GOING) & (step > 0)
    tail += ran.to(tl.int32)
    done = tl.where(ran & (token == closing), _CLOSED, done)
    speaks = here & (done == _GOING)
    wanted = tl.load(forced + row * capacity + step, mask=speaks & (step < capacity), other=-1)
    said = tl.where(wanted >= 0, wanted, tl.load(chosen + row, mask=here, other=0))
    token = tl.where(speaks, said, token)
    tl.store(history + row * capacity + step, said, mask=speaks & (step < capacity))
    done = tl.where(speaks & (said == end), _SAID_END, done)
    done = tl.where((done == _GOING) & (step + 1 >= limit), _AT_LIMIT, done)
    going = here & (done == _GOING)
    tl.store(counts + row, count + speaks.to(tl.int32), mask=here)
    tl.store(done_rows + row, done, mask=here)
    tl.store(tokens + row, token, mask=here)
    tl.store(tail_lengths + row, tail, mask=here)
    tl.store(attended + row, tail + going.to(tl.int32), mask=here)
    tl.store(slots + row, tail_start + row.to(tl.int64) * tail_room + tail, mask=here)
    tl.store(positions + row, tl.load(first_position) + tail, mask=here)
    following = tl.load(uniforms + row * capacity + step + 1, mask=here & (step + 1 < capacity), other=0.0)
    tl.store(uniform + row, following, mask=here)
    remaining = tl.sum(going.to(tl.int32), 0)
    unclosed = tl.sum((going & (token != closing)).to(tl.int32), 0)
    code = tl.where(unclosed > 0, _GO_ON, tl.where(remaining > 0, _ONE_MORE, _ENDED))
    tl.debug_barrier()  # everyone has read the step
    call = tl.max(step, 0)
    tl.store(flags + tl.minimum(call, capacity), code)
    tl.store(steps, call + 1)


def advance(
    chosen: torch.Tensor,
    given: ops.RolloutInput,
    state: ops.RolloutState,
    tail_start: int,
    tail_room: int,
) -> None:
    """See `operations.advance`."""
    rows, capacity = state.history.shape
    overlap = overlaps(chosen)
    _advance[(1,)](
        chosen, given.forced, given.uniforms, given.rule, given.first_position, state.step, state.done,
        state.token, state.tail_length, state.attended, state.slot, state.position, state.count, state.history,
        state.uniform, state.flags, tail_start, tail_room, rows, capacity,
        BLOCK=triton.next_power_of_2(rows), OVERLAP=overlap, num_warps=1, launch_pdl=overlap,
    )  # fmt: skip

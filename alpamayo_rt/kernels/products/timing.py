# SPDX-License-Identifier: Apache-2.0
"""Times candidates for a product on the device, over operands of their own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from alpamayo_rt.kernels.products.library import SCALED_TYPES, LibraryError
from alpamayo_rt.kernels.products.product import Product

SCRATCH_BYTES = 256 << 20
COLD_BYTES = 128 << 20
"""Of weights in turn: more than an L2 cache keeps, so that they come from memory, as in a network of layers."""
LEAST_WEIGHTS, MOST_WEIGHTS = 3, 16
WARM_UPS, ROUNDS = 2, 3
MOST_CALLS = MOST_WEIGHTS
"""Of a candidate in a round: each reads another weight, as far as there are so many."""
BUDGET_MS = 20.0
"""For all timed calls of a product, beside one call of each candidate a round, which there always is."""
MARGIN = 0.01
"""The first candidate wins unless another takes less by this share: noise shall not choose."""
_HEAD_START = 400_000
"""Cycles that the device spins while the host launches what is timed, 0.2 ms."""


Run = Callable[[Product], None]
"""A way to do a product."""
Clock = Callable[[Callable[[int], None], int], float]
"""(what to call with 0, 1, …; how many times) → milliseconds a call."""


def device_clock(call: Callable[[int], None], times: int) -> float:
    """CUDA events around calls on the current stream, launched while the device is kept busy before them."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START)
    begin.record()
    for i in range(times):
        call(i)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """On the default stream of a GPU, with all earlier work done, and all of this work when it is left.

    The allocator keeps freed memory for the stream that it was allocated in; scratch in the stream of each
    capture would add up.
    """
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.default_stream(device)):
        torch.cuda.synchronize(device)
        try:
            yield
        finally:
            torch.cuda.synchronize(device)


def scratch_products(product: Product) -> list[Product]:
    """What to time on in turn: random operands as far as `SCRATCH_BYTES` last, else the caller's own.

    The caller's may be zeros, which a GPU multiplies faster than numbers, and a weight read again and again
    lies in the cache, where it will not be. Out is the caller's where it is overwritten anyway; nothing if it
    may not be and there is no room for another.
    """
    left = SCRATCH_BYTES
    generator = torch.Generator(product.x.device).manual_seed(0)

    def room(like: torch.Tensor, scale: float) -> torch.Tensor | None:
        nonlocal left
        size = _bytes(like)
        if size > left:
            return None
        try:
            whole = _normal(like, scale, generator)
        except torch.OutOfMemoryError:
            return None
        left -= size
        return whole[:, : like.shape[1]]

    target = room(product.out, 1.0) if product.add else product.out
    if target is None:
        return []
    x, scale = room(product.x, 1.0), product.weight.shape[1] ** -0.5
    wanted = min(max(-(-COLD_BYTES // _bytes(product.weight)), LEAST_WEIGHTS), MOST_WEIGHTS)
    weights = [w for _ in range(wanted) if (w := room(product.weight, scale)) is not None]
    alike = product._replace(x=product.x if x is None else x, out=target, base=None)
    return [alike._replace(weight=weight) for weight in weights or [product.weight]]


def _bytes(matrix: torch.Tensor) -> int:
    """From the first number to the end of the last row's distance."""
    return matrix.shape[0] * matrix.stride(0) * matrix.element_size()


def _normal(like: torch.Tensor, scale: float, generator: torch.Generator) -> torch.Tensor:
    """Normal numbers, as many as lie between the first of `like` and the end of its last row's distance."""
    narrow = like.dtype in SCALED_TYPES
    kind = torch.bfloat16 if narrow else like.dtype
    whole = torch.empty(like.shape[0], like.stride(0), dtype=kind, device=like.device)
    if not narrow:
        return whole.normal_(std=scale, generator=generator)
    # As rows are whose largest number is 448.
    return whole.normal_(std=112, generator=generator).clamp_(-448, 448).to(like.dtype)


def fastest(runs: Sequence[Run], products: Sequence[Product], clock: Clock) -> int | None:
    """The number of the fastest over products in turn; candidates that fail are left out; None if all do."""

    def call_of(run: Run) -> Callable[[int], None]:
        return lambda i: run(products[i % len(products)])

    calls: dict[int, Callable[[int], None]] = {}
    for number, run in enumerate(runs):
        call = call_of(run)
        try:
            for i in range(WARM_UPS):
                call(i)
        except LibraryError:
            continue
        calls[number] = call
    if not calls:
        return None
    first = next(iter(calls))
    share = BUDGET_MS / (ROUNDS * len(calls) * max(clock(calls[first], 1), 1e-6))
    times = min(max(int(share), 1), MOST_CALLS)
    # Round by round, so that a clock that changes meanwhile changes for all.
    rounds = [{number: clock(call, times) for number, call in calls.items()} for _ in range(ROUNDS)]
    medians = {number: statistics.median(taken[number] for taken in rounds) for number in calls}
    best = min(medians, key=lambda number: medians[number])
    return first if medians[first] <= medians[best] * (1 + MARGIN) else best

# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of `operations.choose_tokens`: three launches, many programs a row in each.

1. `_extremes`: the row's largest and smallest logit, and zeros for what the others count in.
2. `_histogram`: masses by distance from the largest logit, in bins that share the row's whole span. The row's
   last program to arrive sums them up and sees in which bins the ends of top-k and top-p and the drawn token
   lie. While an end is known to its bin only, what follows from it is a range of bins.
3. `_select`: collects the tokens of these bins. The row's last program searches among them.

A token is known by its order: the bits of its scaled logit, made monotone, then its index, reversed; so that
higher is earlier, and no two are alike.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from alpamayo_rt.kernels.sampling.operations import SamplingScratch
from alpamayo_rt.kernels.sampling.triton_search import (
    bin_of,
    index_of,
    mass_of,
    order_of,
    search,
    sum_from,
    value_of,
)
from alpamayo_rt.kernels.skinny.triton_parts import after_the_kernel_before, overlaps

_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _scaled(logits, index, end, masked, settings, RANGES: tl.constexpr):
    """Logits over the temperature, −∞ where masked or past the end."""
    x = tl.load(logits + index, mask=index < end, other=float("-inf"))
    for r in tl.static_range(RANGES):
        first, last = tl.load(masked + 2 * r), tl.load(masked + 2 * r + 1)
        x = tl.where((index >= first) & (index < last), float("-inf"), x)
    temperature = tl.where(tl.load(settings + 3) != 0.0, 1.0, tl.load(settings)).to(tl.float32)
    x = tl.div_rn(x, temperature)
    return tl.where(x == 0.0, 0.0, x)  # one zero only


@triton.jit
def _row_extremes(best, least, row, PROGRAMS: tl.constexpr, PADDED: tl.constexpr):
    """The row's best token as an order, its largest and its smallest finite logit."""
    program = tl.arange(0, PADDED)
    here = program < PROGRAMS
    orders = tl.load(best + row * PROGRAMS + program, mask=here, other=-(2**62))
    lows = tl.load(least + row * PROGRAMS + program, mask=here, other=_INFINITY)
    return tl.max(orders, 0), tl.min(lows, 0)


@triton.jit
def _span(size, program, PROGRAMS: tl.constexpr):
    share = tl.cdiv(tl.cdiv(size, PROGRAMS), 32) * 32
    return program * share, tl.minimum((program + 1) * share, size)


@triton.jit
def _last_to_arrive(counter, PROGRAMS: tl.constexpr):
    """Whether all of the row's other programs have stored what they had to."""
    tl.debug_barrier()
    arrived = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
    tl.debug_barrier()
    return arrived == PROGRAMS - 1


@triton.jit
def _extremes(
    logits,
    masked,
    settings,
    best,
    least,
    masses,
    counts,
    counters,
    row_stride,
    size,
    RANGES: tl.constexpr,
    INDEX_BITS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_the_kernel_before(OVERLAP)
    row, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start, end = _span(size, program, PROGRAMS)
    top = tl.full([BLOCK], -(2**62), tl.int64)
    low = tl.full([BLOCK], _INFINITY, tl.float32)
    for first in range(start, end, BLOCK):
        index = first + tl.arange(0, BLOCK)
        x = _scaled(logits + row * row_stride, index, end, masked, settings, RANGES)
        top = tl.maximum(top, tl.where(index < end, order_of(x, index, INDEX_BITS), -(2**62)))
        low = tl.minimum(low, tl.where(x > float("-inf"), x, _INFINITY))
    tl.store(best + row * PROGRAMS + program, tl.max(top, 0))
    tl.store(least + row * PROGRAMS + program, tl.min(low, 0))
    for first in range(program * BLOCK, BINS, PROGRAMS * BLOCK):
        place = first + tl.arange(0, BLOCK)
        tl.store(masses + row * BINS + place, tl.zeros([BLOCK], tl.int64), mask=place < BINS)
        tl.store(counts + row * BINS + place, tl.zeros([BLOCK], tl.int32), mask=place < BINS)
    if program == 0:
        tl.store(counters + row * 3 + tl.arange(0, 4), tl.zeros([4], tl.int32), mask=tl.arange(0, 4) < 3)


@triton.jit
def _histogram(
    logits,
    masked,
    settings,
    uniforms,
    best,
    least,
    masses,
    counts,
    counters,
    found_ranges,
    row_stride,
    size,
    RANGES: tl.constexpr,
    INDEX_BITS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PADDED: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_the_kernel_before(OVERLAP)
    row, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    top_k = tl.load(settings + 2)
    if tl.load(settings + 3) == 0.0:
        order, smallest = _row_extremes(best, least, row, PROGRAMS, PADDED)
        largest = value_of(order, INDEX_BITS)
        start, end = _span(size, program, PROGRAMS)
        for first in range(start, end, BLOCK):
            index = first + tl.arange(0, BLOCK)
            x = _scaled(logits + row * row_stride, index, end, masked, settings, RANGES)
            mass = mass_of(x, largest)
            place = row * BINS + bin_of(x, largest, smallest, BINS)
            tl.atomic_add(masses + place, mass, mask=mass > 0, sem="relaxed")
            if top_k > 0:
                tl.atomic_add(counts + place, 1, mask=mass > 0, sem="relaxed")
        if _last_to_arrive(counters + row * 3, PROGRAMS):
            _find_ranges(masses + row * BINS, counts + row * BINS, settings, uniforms + row,
                         found_ranges + row * 9, BINS)  # fmt: skip


@triton.jit
def wanted_mass(total, top_p):
    """The mass that top-p keeps at least, of a total over 0."""
    wanted = tl.ceil(tl.minimum(top_p, 1.0) * total.to(tl.float64)).to(tl.int64)
    return tl.minimum(tl.maximum(wanted, 1), total)


@triton.jit
def drawn_mass(kept, uniform):
    """The mass before which the drawn token does not end."""
    return tl.minimum(tl.floor(uniform * kept.to(tl.float64)).to(tl.int64), kept - 1)


@triton.jit
def _find_ranges(masses, counts, settings, uniform, out, BINS: tl.constexpr):
    """Stores total mass; bin of the k-th token, count and mass before it; two ranges of bins and masses before.

    A bin that holds mass position t is the first whose inclusive sum exceeds t.
    """
    place = tl.arange(0, BINS)
    sums = tl.cumsum(tl.load(masses + place, cache_modifier=".cg"), 0)
    total = tl.max(sums, 0)
    k = tl.load(settings + 2).to(tl.int64)
    low_total, high_total = total, total
    k_bin = tl.full([], BINS, tl.int64)
    before_count = tl.zeros([], tl.int64)
    if k > 0:
        tokens = tl.cumsum(tl.load(counts + place, cache_modifier=".cg").to(tl.int64), 0)
        k_bin = tl.sum((tokens < k).to(tl.int64), 0)
        before_count = tl.max(tl.where(tokens < k, tokens, 0), 0)
        if k_bin < BINS:
            low_total = tl.max(tl.where(place < k_bin, sums, 0), 0) + 1
            high_total = tl.max(tl.where(place <= k_bin, sums, 0), 0)
    top_p, u = tl.load(settings + 1), tl.load(uniform)
    low_wanted, high_wanted = wanted_mass(low_total, top_p), wanted_mass(high_total, top_p)
    low_kept = low_wanted
    high_kept = tl.min(tl.where(sums >= high_wanted, sums, total), 0)
    high_kept = tl.minimum(high_kept, high_total)
    low_drawn, high_drawn = drawn_mass(low_kept, u), drawn_mass(high_kept, u)
    tl.store(out, total)
    tl.store(out + 1, k_bin)
    tl.store(out + 2, before_count)
    tl.store(out + 3, tl.sum((sums < low_wanted).to(tl.int64), 0))
    tl.store(out + 4, tl.sum((sums < high_wanted).to(tl.int64), 0))
    tl.store(out + 5, tl.max(tl.where(sums < low_wanted, sums, 0), 0))
    tl.store(out + 6, tl.sum((sums <= low_drawn).to(tl.int64), 0))
    tl.store(out + 7, tl.sum((sums <= high_drawn).to(tl.int64), 0))
    tl.store(out + 8, tl.max(tl.where(sums <= low_drawn, sums, 0), 0))


@triton.jit
def _select(
    logits,
    masked,
    settings,
    uniforms,
    best,
    least,
    masses,
    counters,
    found_ranges,
    found,
    out,
    row_stride,
    size,
    RANGES: tl.constexpr,
    INDEX_BITS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PADDED: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    WAYS: tl.constexpr,
    SEARCH_BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    after_the_kernel_before(OVERLAP)
    row, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    order, smallest = _row_extremes(best, least, row, PROGRAMS, PADDED)
    largest = value_of(order, INDEX_BITS)
    if (tl.load(settings + 3) != 0.0) | (largest == float("-inf")):
        if program == 0:
            tl.store(out + row, index_of(order, INDEX_BITS))
    else:
        bins = found_ranges + row * 9
        total, k_bin, before_count = tl.load(bins), tl.load(bins + 1), tl.load(bins + 2)
        kept_low, kept_high, kept_before = tl.load(bins + 3), tl.load(bins + 4), tl.load(bins + 5)
        drawn_low, drawn_high, drawn_before = tl.load(bins + 6), tl.load(bins + 7), tl.load(bins + 8)
        start, end = _span(size, program, PROGRAMS)
        for first in range(start, end, BLOCK):
            index = first + tl.arange(0, BLOCK)
            x = _scaled(logits + row * row_stride, index, end, masked, settings, RANGES)
            place = bin_of(x, largest, smallest, BINS)
            wanted = (place >= kept_low) & (place <= kept_high)
            wanted = wanted | (place >= drawn_low) & (place <= drawn_high) | (place == k_bin)
            wanted = wanted & (mass_of(x, largest) > 0)
            chosen = wanted.to(tl.int32)
            count = tl.sum(chosen, 0)
            if count > 0:
                slot = tl.atomic_add(counters + row * 3 + 2, count, sem="relaxed")
                slot += tl.cumsum(chosen, 0) - 1
                tl.store(found + row * size + slot, order_of(x, index, INDEX_BITS), mask=wanted)
        if _last_to_arrive(counters + row * 3 + 1, PROGRAMS):
            tokens = found + row * size
            count = tl.load(counters + row * 3 + 2, cache_modifier=".cg")
            k = tl.load(settings + 2).to(tl.int64)
            if k_bin < BINS:
                kth, _count = search(tokens, count, largest, smallest, k_bin, k_bin, before_count, k - 1,
                                True, INDEX_BITS, BINS, WAYS, SEARCH_BLOCK)  # fmt: skip
                earliest = (kth >> INDEX_BITS) << INDEX_BITS  # ties with the k-th stay
                total = sum_from(tokens, count, largest, smallest, k_bin, earliest, INDEX_BITS, BINS,
                                 SEARCH_BLOCK)  # fmt: skip
                place = tl.arange(0, BINS)
                total += tl.sum(tl.load(masses + row * BINS + place, mask=place < k_bin, other=0), 0)
            kept = total
            wanted_sum = wanted_mass(total, tl.load(settings + 1))
            if wanted_sum < total:
                _last, kept = search(tokens, count, largest, smallest, kept_low, kept_high, kept_before,
                                 wanted_sum - 1, False, INDEX_BITS, BINS, WAYS, SEARCH_BLOCK)  # fmt: skip
            target = drawn_mass(kept, tl.load(uniforms + row))
            token, _sum = search(tokens, count, largest, smallest, drawn_low, drawn_high, drawn_before, target,
                              False, INDEX_BITS, BINS, WAYS, SEARCH_BLOCK)  # fmt: skip
            tl.store(out + row, index_of(token, INDEX_BITS))


def choose_tokens(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    settings: torch.Tensor,
    masked: torch.Tensor,
    out: torch.Tensor,
    scratch: SamplingScratch,
) -> None:
    """See `operations.choose_tokens`."""
    rows, size = logits.shape
    c, programs, overlap = scratch.configuration, scratch.best.shape[1], overlaps(out)
    common = {
        "RANGES": len(masked), "INDEX_BITS": max(1, (size - 1).bit_length()), "PROGRAMS": programs,
        "BINS": c.bins, "BLOCK": c.block, "OVERLAP": overlap, "num_warps": c.warps, "launch_pdl": overlap,
    }  # fmt: skip
    padded = triton.next_power_of_2(programs)
    grid, sizes = (rows, programs), (logits.stride(0), size)
    _extremes[grid](
        logits, masked, settings, scratch.best, scratch.least, scratch.masses, scratch.counts, scratch.counters,
        *sizes, **common,
    )  # fmt: skip
    _histogram[grid](
        logits, masked, settings, uniforms, scratch.best, scratch.least, scratch.masses, scratch.counts,
        scratch.counters, scratch.ranges, *sizes, PADDED=padded, **common,
    )  # fmt: skip
    _select[grid](
        logits, masked, settings, uniforms, scratch.best, scratch.least, scratch.masses, scratch.counters,
        scratch.ranges, scratch.found, out, *sizes, PADDED=padded, WAYS=c.ways, SEARCH_BLOCK=c.search_block,
        **common,
    )  # fmt: skip

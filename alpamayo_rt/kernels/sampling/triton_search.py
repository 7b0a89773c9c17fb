# SPDX-License-Identifier: Apache-2.0
"""Tokens as numbers that are ordered as they are, their masses and bins, and a search among them."""

from __future__ import annotations

import triton
import triton.language as tl

from alpamayo_rt.kernels.sampling.operations import LOG2_E, MASS_BITS

_LOG2_E = tl.constexpr(LOG2_E)
_ONE = tl.constexpr(2.0**MASS_BITS)
_SPAN = tl.constexpr(31.0)
"""A token that lies further below the likeliest one has no mass: exp(−31) < 2⁻⁴⁴."""


@triton.jit
def order_of(x, index, INDEX_BITS: tl.constexpr):
    """(scaled logit, index) → int64: higher for a larger logit, then for a lower index."""
    bits = x.to(tl.int32, bitcast=True)
    key = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.int64)
    return (key << INDEX_BITS) + ((1 << INDEX_BITS) - 1 - index)


@triton.jit
def index_of(order, INDEX_BITS: tl.constexpr):
    """int64."""
    mask: tl.constexpr = (1 << INDEX_BITS) - 1
    return mask - (order & mask)


@triton.jit
def value_of(order, INDEX_BITS: tl.constexpr):
    """The scaled logit."""
    key = (order >> INDEX_BITS).to(tl.int32)
    return tl.where(key >= 0, key, key ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def mass_of(x, largest):
    """exp(x − largest) as an integer."""
    below = tl.where(x > float("-inf"), largest - x, 64.0)
    return (tl.exp2(-below * _LOG2_E) * _ONE).to(tl.int64)


@triton.jit
def bin_of(x, largest, smallest, BINS: tl.constexpr):
    """Of tokens with a mass; monotone, whatever its rounding."""
    width = tl.maximum(tl.minimum(largest - smallest, _SPAN), 1e-20)
    place = (largest - tl.maximum(x, largest - 2 * _SPAN)) * ((BINS - 1) / width)
    return tl.minimum(tl.maximum(place, 0.0), BINS - 1.0).to(tl.int32)


@triton.jit
def _tokens(
    tokens,
    first,
    count,
    largest,
    smallest,
    low_bin,
    high_bin,
    COUNT: tl.constexpr,
    INDEX_BITS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of orders, and each one's mass, or 1 when counting; 0 outside of the bins."""
    slot = first + tl.arange(0, BLOCK)
    order = tl.load(tokens + slot, mask=slot < count, other=0)
    x = value_of(order, INDEX_BITS)
    place = bin_of(x, largest, smallest, BINS)
    here = (slot < count) & (place >= low_bin) & (place <= high_bin)
    if COUNT:
        weight = tl.full([BLOCK], 1, tl.int64)
    else:
        weight = mass_of(x, largest)
    return order, tl.where(here, weight, 0), here


@triton.jit
def sum_from(
    tokens,
    count,
    largest,
    smallest,
    place,
    threshold,
    INDEX_BITS: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mass of the tokens of one bin whose order is at least `threshold`."""
    total = tl.zeros([BLOCK], tl.int64)
    for first in range(0, count, BLOCK):
        order, weight, _here = _tokens(
            tokens, first, count, largest, smallest, place, place, False, INDEX_BITS, BINS, BLOCK
        )
        total += tl.where(order >= threshold, weight, 0)
    return tl.sum(total, 0)


@triton.jit
def search(
    tokens,
    count,
    largest,
    smallest,
    low_bin,
    high_bin,
    before,
    target,
    COUNT: tl.constexpr,
    INDEX_BITS: tl.constexpr,
    BINS: tl.constexpr,
    WAYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The first token with which the sum exceeds `target`, and that sum.

    Args:
        tokens: orders, in any sequence.
        count: of them.
        largest: scaled logit of the row.
        smallest: likewise.
        low_bin: first bin of those that the token lies in.
        high_bin: last one.
        before: sum over all earlier bins.
        target: at least `before`, less than the sum up to and with `high_bin`.
        COUNT: whether tokens count one each.
        INDEX_BITS: of an order.
        BINS: of the histogram.
        WAYS: thresholds tried at once.
        BLOCK: tokens a step.
    """
    far: tl.constexpr = 2**62
    lowest, highest = tl.full([BLOCK], far, tl.int64), tl.full([BLOCK], -far, tl.int64)
    total = tl.zeros([BLOCK], tl.int64)
    for first in range(0, count, BLOCK):
        order, weight, here = _tokens(
            tokens, first, count, largest, smallest, low_bin, high_bin, COUNT, INDEX_BITS, BINS, BLOCK
        )
        lowest = tl.minimum(lowest, tl.where(here, order, far))
        highest = tl.maximum(highest, tl.where(here, order, -far))
        total += weight
    # The sum from `low` on exceeds the target, that from `high` + 1 on does not.
    low, high, reached = tl.min(lowest, 0), tl.max(highest, 0), before + tl.sum(total, 0)
    way = tl.arange(0, WAYS)
    while low < high:
        step = (high - low) // WAYS + 1
        threshold = low + step * way
        sums = tl.zeros([WAYS], tl.int64)
        for first in range(0, count, BLOCK):
            order, weight, here = _tokens(
                tokens, first, count, largest, smallest, low_bin, high_bin, COUNT, INDEX_BITS, BINS, BLOCK
            )
            sums += tl.sum(tl.where(order[:, None] >= threshold[None, :], weight[:, None], 0), 0)
        exceeding = before + sums > target
        passed = tl.sum(exceeding.to(tl.int64), 0)
        reached = before + tl.min(tl.where(exceeding, sums, far), 0)
        low += step * (passed - 1)
        high = tl.minimum(high, low + step - 1)
    return low, reached

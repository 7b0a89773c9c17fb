# SPDX-License-Identifier: Apache-2.0
"""Which bins of a histogram of masses hold the ends of top-k and top-p, and the token that is drawn."""

from __future__ import annotations

import triton
import triton.language as tl


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
def _kept_ends(low_a, high_a, before_a, kept_a, low_b, high_b, before_b, kept_b):
    return low_a + low_b, high_a + high_b, tl.maximum(before_a, before_b), tl.minimum(kept_a, kept_b)


@triton.jit
def _drawn_ends(low_a, high_a, before_a, low_b, high_b, before_b):
    return low_a + low_b, high_a + high_b, tl.maximum(before_a, before_b)


@triton.jit
def find_ranges(mass, counts, k, top_p, uniform, BINS: tl.constexpr):
    """Which bins matter: `mass` is that of each bin.

    A bin that holds mass position t is the first whose inclusive sum exceeds t.

    Returns:
        The total; the bin of the k-th token, count and mass before it; for the end of top-p the first and the
        last bin, and the mass before; for the drawn token likewise.
    """
    place = tl.arange(0, BINS)
    sums = tl.cumsum(mass, 0)
    total = tl.max(sums, 0)
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
    low_wanted, high_wanted = wanted_mass(low_total, top_p), wanted_mass(high_total, top_p)
    kept_low, kept_high, kept_before, kept = tl.reduce(
        (
            (sums < low_wanted).to(tl.int32),
            (sums < high_wanted).to(tl.int32),
            tl.where(sums < low_wanted, sums, 0),
            tl.where(sums >= high_wanted, sums, total),
        ),
        0,
        _kept_ends,
    )
    low_drawn = drawn_mass(low_wanted, uniform)
    high_drawn = drawn_mass(tl.minimum(kept, high_total), uniform)
    drawn_low, drawn_high, drawn_before = tl.reduce(
        (
            (sums <= low_drawn).to(tl.int32),
            (sums <= high_drawn).to(tl.int32),
            tl.where(sums <= low_drawn, sums, 0),
        ),
        0,
        _drawn_ends,
    )
    return (
        total, k_bin, before_count, low_total - 1, kept_low, kept_high, kept_before, drawn_low, drawn_high,
        drawn_before,
    )  # fmt: skip

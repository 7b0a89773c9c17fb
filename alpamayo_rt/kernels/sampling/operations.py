# SPDX-License-Identifier: Apache-2.0
"""From logits to tokens on the device: mask → temperature → top-k → top-p → draw.

The choice is that of a sort by descending logit, ties by lower index first, whose cumulated probabilities are
looked up at given uniform numbers. Masses are integers: a token's is exp(x − max) · 2⁴⁴ in float32, rounded
down, so that sums are exact whatever their order. Against sums of real numbers the bounds of a token move by at
most 2⁻⁴⁴ a token (1e-8 of the whole for 155,697) besides the error of the float32 exponential, about 2e-6 of a
mass; a token under 2⁻⁴⁴ of the likeliest one's probability is never drawn. At most 2¹⁸ tokens, or sums would
overflow.

All that changes between requests is read from the device, so that one captured graph serves all of them. On a
GPU (and everywhere under TRITON_INTERPRET=1) it is Triton kernels; elsewhere, and without Triton, torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from alpamayo_rt.kernels.dispatch import uses_triton

MASS_BITS = 44
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class SamplingConfiguration:
    """How the work is divided.

    Attributes:
        programs: of all rows together.
        block: logits a step of a program.
        warps: of a program.
        bins: of the histogram of masses.
        ways: thresholds that the final search tries at once.
        search_block: candidates a step of the final search.
    """

    programs: int = 264
    block: int = 1024
    warps: int = 8
    bins: int = 4096
    ways: int = 16
    search_block: int = 512


@dataclass(frozen=True)
class SamplingScratch:
    """Buffers of `choose_tokens`; nothing in them outlives a call.

    Attributes:
        configuration: how the work is divided.
        best: (R, programs a row) int64, each program's best token.
        least: (R, programs a row) float32, each program's smallest logit.
        masses: (R, bins) int64.
        counts: (R, bins) int32.
        ranges: (R, 9) int64, the bins that the final search looks into.
        found: (R, V) int64, the tokens in these bins.
        counters: (R, 3) int32.
    """

    configuration: SamplingConfiguration
    best: torch.Tensor
    least: torch.Tensor
    masses: torch.Tensor
    counts: torch.Tensor
    ranges: torch.Tensor
    found: torch.Tensor
    counters: torch.Tensor

    @classmethod
    def allocate(
        cls,
        rows: int,
        vocabulary: int,
        device: torch.device | str,
        configuration: SamplingConfiguration | None = None,
    ) -> SamplingScratch:
        """For R rows of V logits."""
        c = configuration or SamplingConfiguration()
        programs = max(1, min(c.programs // rows, -(-vocabulary // c.block)))

        def buffer(size: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(rows, size, dtype=dtype, device=device)

        return cls(
            configuration=c,
            best=buffer(programs, torch.int64),
            least=buffer(programs, torch.float32),
            masses=buffer(c.bins, torch.int64),
            counts=buffer(c.bins, torch.int32),
            ranges=buffer(9, torch.int64),
            found=buffer(vocabulary, torch.int64),
            counters=buffer(3, torch.int32),
        )


def sampling_settings(
    temperature: float, top_p: float, top_k: int | None, device: torch.device | str
) -> torch.Tensor:
    """(4,) float64, as `choose_tokens` reads it: temperature, top-p, top-k or 0, greedy or not."""
    greedy = temperature == 0 or top_p == 0 or top_k == 1
    return torch.tensor([temperature, top_p, top_k or 0, greedy], dtype=torch.float64, device=device)


def choose_tokens(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    settings: torch.Tensor,
    masked: torch.Tensor,
    out: torch.Tensor,
    scratch: SamplingScratch,
) -> None:
    """Choose one token a row.

    Args:
        logits: (R, V) float32, a view whose last dimension is contiguous; left alone.
        uniforms: (R,) float64 in [0, 1).
        settings: (4,) float64, see `sampling_settings`.
        masked: (n, 2) int64 ranges [first, last) of ids that are never chosen; (0, 0) is none.
        out: (R,) int64. Where all logits are −∞ it is token 0.
        scratch: of R rows and V logits.
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.sampling import triton_choose

        triton_choose.choose_tokens(logits, uniforms, settings, masked, out, scratch)
    else:
        choose_tokens_twin(logits, uniforms, settings, masked, out)


def choose_tokens_twin(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    settings: torch.Tensor,
    masked: torch.Tensor,
    out: torch.Tensor,
    scratch: SamplingScratch | None = None,
) -> None:
    """See `choose_tokens`; here it is the sort."""
    temperature, top_p, top_k, greedy = settings.unbind()
    index = torch.arange(logits.shape[1], device=logits.device)
    for first, last in masked:
        logits = logits.masked_fill((index >= first) & (index < last), -torch.inf)
    scaled = logits / torch.where(greedy != 0, 1.0, temperature).float()
    ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
    below = torch.where(ordered > -torch.inf, ordered[:, :1] - ordered, torch.inf)
    masses = (torch.exp2(-below * LOG2_E) * 2.0**MASS_BITS).long()
    kth = (top_k.long() - 1).clamp(0, logits.shape[1] - 1)
    masses = torch.where((top_k > 0) & (ordered < ordered.index_select(1, kth[None])), 0, masses)
    sums = masses.cumsum(-1)
    total = sums[:, -1:]
    wanted = (top_p.clamp(max=1.0) * total.double()).ceil().long()
    wanted = torch.minimum(wanted.clamp(min=1), total)
    kept = sums.gather(1, torch.searchsorted(sums, wanted).clamp(max=logits.shape[1] - 1))
    drawn = torch.minimum((uniforms[:, None] * kept.double()).floor().long(), kept - 1)
    at = torch.searchsorted(sums, torch.where(greedy != 0, 0, drawn).clamp(min=0), right=True)
    at = torch.where(total > 0, at, 0)  # nothing but -inf: the first
    out.copy_(ids.gather(1, at)[:, 0])

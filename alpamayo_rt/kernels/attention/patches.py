# SPDX-License-Identifier: Apache-2.0
"""Attention among the patches of each image, from the joint product on.

On Hopper a kernel of its own, on other GPUs one in Triton, a torch twin elsewhere; into a buffer that the
caller owns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.attention.angles import PatchAngles
from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.kernels.hopper import patches as hopper
from alpamayo_rt.kernels.hopper.availability import Chosen

_HOPPER = Chosen("attention among patches", hopper.patch_attention)


@dataclass(frozen=True)
class PatchConfiguration:
    """How `patch_attention` divides its work.

    Attributes:
        block_m: queries of a program.
        block_n: keys a step of a program.
        warps: of a program.
        stages: tiles of keys and values in flight.
        registers: the most that a thread may take, or None.
        steady: whether scores are taken off the largest of the first tile and not of all so far, which spares
            the sums their correction at each step. Where others lie so far above it that sums might overflow,
            a program begins again without.
        turned: groups of up to eight pairs of a key that a program turns of the kernel before this one.
    """

    block_m: int = 128
    block_n: int = 64
    warps: int = 8
    stages: int = 3
    registers: int | None = 128
    steady: bool = True
    turned: int = 128


def patch_configuration(dtype: torch.dtype) -> PatchConfiguration:
    """For an H100; float32 goes without its matrix unit and takes small tiles."""
    if dtype in (torch.float16, torch.bfloat16):
        return PatchConfiguration()
    return PatchConfiguration(32, 32, 4, 2, None, steady=False)


def patch_attention(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    configuration: PatchConfiguration | None = None,
    *,
    angles: PatchAngles | None = None,
) -> None:
    """Rotate queries and keys, then let the patches of each image attend to each other, scaled by d^-½.

    Args:
        qkv: (T, 3 · heads · d) contiguous, T = images · patches, image by image. What its keys are afterwards
            is left open: one of the kernels rotates them in place.
        cos: (patches, d / 2) float32, as is sin; the second half of a head has the same.
        sin: see cos.
        out: (T, heads, d) contiguous; may be no part of qkv.
        configuration: how the kernel in Triton divides the work; None chooses, also the kernel.
        angles: `PatchAngles.of(cos, sin)`, which the kernel for Hopper takes; None goes without it.
    """
    for_hopper = configuration is None and angles is not None and hopper.suits(qkv, angles, out)
    if for_hopper and _HOPPER(qkv, angles, out):
        return
    if uses_triton(qkv):
        from alpamayo_rt.kernels.attention import triton_patches

        chosen = configuration or patch_configuration(qkv.dtype)
        triton_patches.patch_attention(qkv, cos, sin, out, chosen)
    else:
        patch_attention_twin(qkv, cos, sin, out)


def patch_attention_twin(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    configuration: PatchConfiguration | None = None,
) -> None:
    """See `patch_attention`; any configuration is the same to it."""
    heads, d = out.shape[1:]
    q, k, v = qkv.view(-1, len(cos), 3, heads, d).unbind(2)
    c, s = cos[:, None], sin[:, None]

    def turned(part: torch.Tensor) -> torch.Tensor:
        first, second = part.to(torch.promote_types(part.dtype, torch.float32)).chunk(2, -1)
        return torch.cat([first * c - second * s, second * c + first * s], -1).to(part.dtype)

    q, k, v = (part.transpose(1, 2) for part in (turned(q), turned(k), v))
    out.copy_(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(out.shape))

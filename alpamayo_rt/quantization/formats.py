# SPDX-License-Identifier: Apache-2.0
"""Numbers of eight and four bits: how matrices become them and what they stand for.

e4m3: one scale an output channel (weights) or a token (activations). A value v comes back as v' with
|v − v'| ≤ max(|v| / 16, scale / 1024): half a unit in the last of three mantissa bits, or of a subnormal.

int4: groups of 128 inputs of an output channel, each with a scale and a zero point of its own; v' = (code −
zero) · scale, and |v − v'| ≤ scale / 2.

Both bounds hold up to the rounding of float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

E4M3_MAX = 448.0
GROUP = 128
_SMALLEST_SCALE = 2.0**-100
"""What a row of zeros gets: positive, so that it can be divided by, and far below any real scale."""
_ROWS = 4096


class E4m3(NamedTuple):
    """`values` e4m3 (…, n) and `scale` float32 (…, 1)."""

    values: torch.Tensor
    scale: torch.Tensor


class Int4(NamedTuple):
    """`packed` uint8 (out, ⌈in / 2⌉), the even input in the low bits; (out, groups) float32 and uint8."""

    packed: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor


def to_e4m3(x: torch.Tensor, scale: torch.Tensor | None = None) -> E4m3:
    """Round to e4m3.

    Args:
        x: (…, n), finite.
        scale: () float32 for all of it, beyond which values saturate; None: the largest magnitude of each row
            over 448.
    """
    x32 = x.float()
    if scale is None:
        scale = (x32.abs().amax(-1, keepdim=True) / E4M3_MAX).clamp(min=_SMALLEST_SCALE)
    else:
        scale = scale.expand(*x.shape[:-1], 1)
    # torch's own conversion makes NaN of what is too large.
    return E4m3((x32 / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale)


def from_e4m3(quantized: E4m3) -> torch.Tensor:
    """(…, n) float32."""
    return quantized.values.float() * quantized.scale


def weight_to_e4m3(weight: torch.Tensor) -> E4m3:
    """(out, in) → one scale an output channel; a few rows at a time, as a head's float32 copy is gigabytes."""
    rounded = [to_e4m3(rows) for rows in weight.split(_ROWS)]
    return E4m3(torch.cat([r.values for r in rounded]), torch.cat([r.scale for r in rounded]))


def groups_of(inputs: int) -> int:
    """How many groups a row of `inputs` weights has; the last may be shorter."""
    return -(-inputs // GROUP)


def to_int4(weight: torch.Tensor) -> Int4:
    """Round (out, in) finite weights to four bits."""
    parts = [_rows_to_int4(rows) for rows in weight.split(_ROWS)]
    return Int4(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _rows_to_int4(weight: torch.Tensor) -> Int4:
    out, inputs = weight.shape
    groups = groups_of(inputs)
    # Zeros lie in every group's range anyway, so that filling the last group up changes nothing.
    grouped = F.pad(weight.float(), (0, groups * GROUP - inputs)).view(out, groups, GROUP)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=_SMALLEST_SCALE)
    zero = (-low / scale).round()
    codes = ((grouped / scale[..., None]).round() + zero[..., None]).clamp(0, 15).to(torch.uint8)
    codes = F.pad(codes.flatten(1)[:, :inputs], (0, inputs % 2))
    return Int4(codes[:, 0::2] | codes[:, 1::2] << 4, scale, zero.to(torch.uint8))


def from_int4(quantized: Int4, inputs: int) -> torch.Tensor:
    """(out, inputs) float32."""
    packed, scale, zero = quantized
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(1)[:, :inputs].float()
    groups = scale.shape[1]
    grouped = F.pad(codes, (0, groups * GROUP - inputs)).view(len(packed), groups, GROUP)
    return ((grouped - zero[..., None].float()) * scale[..., None]).flatten(1)[:, :inputs]

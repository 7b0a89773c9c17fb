# SPDX-License-Identifier: Apache-2.0
"""A matrix of a linear layer as the skinny kernels read it: floating, e4m3 or int4."""

from __future__ import annotations

from typing import NamedTuple

import torch

from alpamayo_rt.quantization.formats import E4m3, Int4, from_e4m3, from_int4


class SkinnyWeight(NamedTuple):
    """(N, K) weights, row-major, in one of three forms (see `quantization.formats`).

    floating: `values` (N, K), no scale. e4m3: `values` (N, K) float8_e4m3fn and `scale` (N, 1) float32. int4:
    `values` (N, ⌈K / 2⌉) uint8, the even input in the low bits, `scale` (N, ⌈K / 128⌉) float32, `zero` of the
    same shape, uint8.
    """

    values: torch.Tensor
    scale: torch.Tensor | None = None
    zero: torch.Tensor | None = None

    @property
    def kind(self) -> str:
        """`float`, `e4m3` or `int4`."""
        if self.scale is None:
            return "float"
        return "e4m3" if self.zero is None else "int4"

    @classmethod
    def stacked(cls, parts: list[SkinnyWeight]) -> SkinnyWeight:
        """Matrices of one kind and one K above each other: query, key and value, or gate and up."""
        columns = zip(*parts, strict=True)
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))  # type: ignore[arg-type]

    def restored(self, inputs: int, dtype: torch.dtype) -> torch.Tensor:
        """(N, `inputs`) in a floating type."""
        if self.scale is None:
            return self.values.to(dtype)
        if self.zero is None:
            return from_e4m3(E4m3(self.values, self.scale)).to(dtype)
        return from_int4(Int4(self.values, self.scale, self.zero), inputs).to(dtype)

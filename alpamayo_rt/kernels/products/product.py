# SPDX-License-Identifier: Apache-2.0
"""One product of two matrices, and what it does on its way out."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Scales(NamedTuple):
    """What a product of e4m3 is multiplied by: a float32 for each row of x (M, 1), and of the weight (N, 1)."""

    x: torch.Tensor
    weight: torch.Tensor


class Product(NamedTuple):
    """out = x · Wᵀ (+ bias), GELU of that, or that added to something.

    Attributes:
        x: (M, K), of the type of out, or e4m3 with scales; as is weight.
        weight: (N, K).
        out: (M, N).
        bias: (N,) or None.
        gelu: whether the tanh approximation of GELU follows.
        add: whether it is added to what is in out, or to base.
        base: (M, N), lies as out does; None where there are scales.
        scales: of e4m3.
    """

    x: torch.Tensor
    weight: torch.Tensor
    out: torch.Tensor
    bias: torch.Tensor | None = None
    gelu: bool = False
    add: bool = False
    base: torch.Tensor | None = None
    scales: Scales | None = None

# SPDX-License-Identifier: Apache-2.0
"""Operands of products, and what exact arithmetic makes of them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.products.library import ALIGNMENT
from alpamayo_rt.quantization.formats import E4m3, to_e4m3

TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
WAYS = [
    (bias, gelu, add) for bias in (False, True) for gelu, add in ((False, False), (True, False), (False, True))
]


def operands(
    m: int, n: int, k: int, dtype: torch.dtype, device: str = "cpu", spare: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, weight, out and bias; `spare` columns stand between the rows."""
    generator = torch.Generator(device).manual_seed(m + n + k)

    def made(rows: int, columns: int, scale: float) -> torch.Tensor:
        values = torch.randn(rows, columns + spare, generator=generator, device=device) * scale
        whole = torch.empty(values.numel() + ALIGNMENT, dtype=dtype, device=device)
        start = -whole.data_ptr() % ALIGNMENT // dtype.itemsize  # as a GPU's memory is given
        return whole[start:][: values.numel()].view(values.shape).copy_(values)[:, :columns]

    return made(m, k, 1.0), made(n, k, k**-0.5), made(m, n, 1.0), made(1, n + spare, 1.0)[0, :n]


def scaled_operands(
    m: int, n: int, k: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[E4m3, E4m3, torch.Tensor, torch.Tensor]:
    """x and weight in e4m3 with scales that differ from row to row, out and bias."""
    x, weight, out, bias = operands(m, n, k, dtype, device)
    spread = [torch.linspace(0.1, 3, rows, device=device)[:, None] for rows in (m, n)]
    return to_e4m3(x * spread[0]), to_e4m3(weight * spread[1]), out, bias


def exact_scaled(
    x: E4m3, weight: E4m3, out: torch.Tensor, bias: torch.Tensor | None, gelu: bool, add: bool
) -> torch.Tensor:
    whole = (matrix.values.double() * matrix.scale.double() for matrix in (x, weight))
    return exact(*whole, out, bias, gelu, add)


def exact(
    x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None, gelu: bool, add: bool
) -> torch.Tensor:
    made = x.double() @ weight.double().t()
    made = made if bias is None else made + bias.double()
    made = F.gelu(made, approximate="tanh") if gelu else made
    return out.double() + made if add else made


def near(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert (ours.double() - expected).norm() <= TOLERANCE[ours.dtype] * expected.norm()

# SPDX-License-Identifier: Apache-2.0
"""The gated linear unit with the norm before it: its parts, and the kernel for Hopper, against float64."""

from __future__ import annotations

import pytest
import torch
from hopper_cases import distance, needs_hopper
from torch.nn import functional as F

from alpamayo_rt.kernels.hopper.gated import gated_product, suits
from alpamayo_rt.kernels.layers.gated import gated_linear

SIZES = [(384, 2048, 8256), (320, 256, 200), (400, 512, 136), (64, 264, 128), (1, 64, 8)]
"""(rows, width, inner width): the released one, then tiles that are not filled."""


def operands(m: int, k: int, n: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(m + n)
    x = torch.randn(m, k, device=device, generator=generator).to(dtype)
    x *= torch.rand(m, 1, device=device, generator=generator).to(dtype) * 4
    return x, (torch.randn(2 * n, k, device=device, generator=generator) * 3 * k**-0.5).to(dtype)


def exact(x: torch.Tensor, gate_up: torch.Tensor, eps: float | None) -> torch.Tensor:
    h = x.double()
    if eps is not None:
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
    gate, up = (h @ gate_up.double().t()).chunk(2, -1)
    return F.silu(gate) * up


@pytest.mark.parametrize("eps", [None, 1e-6])
@pytest.mark.parametrize(("m", "k", "n"), SIZES[1:])
def test_of_parts(m: int, k: int, n: int, eps: float | None) -> None:
    x, gate_up = operands(m, k, n, "cpu", torch.float32)
    out = torch.full((m, n), torch.nan)
    gated_linear(x, gate_up, out, eps)
    assert distance(out, exact(x, gate_up, eps)) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("eps", [None, 1e-6])
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_on_hopper(m: int, k: int, n: int, eps: float | None) -> None:
    needs_hopper()
    x, gate_up = operands(m, k, n, "cuda", torch.bfloat16)
    room = torch.full((m + 2, n), torch.nan, device="cuda", dtype=torch.bfloat16)
    outs = [torch.full_like(room, torch.nan) for _ in range(5)]
    for out in outs:
        gated_product(x, gate_up, out[:m], eps)
    # One rounding at the end; nothing behind the rows; the same each time.
    assert distance(outs[0][:m], exact(x, gate_up, eps)) < 2.1e-3
    assert all(torch.equal(out[:m], outs[0][:m]) and bool(out[m:].isnan().all()) for out in outs)
    if m == 384:
        assert suits(x, gate_up, outs[0][:m])


@pytest.mark.gpu
def test_large_numbers_neither_overflow_nor_vanish() -> None:
    needs_hopper()
    x = torch.eye(64, device="cuda", dtype=torch.bfloat16)
    gates = torch.linspace(-3e4, 3e4, 64 * 64, device="cuda").view(64, 64).to(torch.bfloat16)
    out = torch.empty(64, 64, device="cuda", dtype=torch.bfloat16)
    gated_product(x, torch.cat([gates, torch.ones_like(gates)]), out)
    torch.testing.assert_close(out.double(), F.silu(gates.double()).t(), rtol=2**-8, atol=1e-12)

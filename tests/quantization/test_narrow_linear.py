# SPDX-License-Identifier: Apache-2.0
"""Narrowed layers against float64 products of the numbers that they hold, and of those that they replace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alpamayo_rt.errors import InputError, ModelError
from alpamayo_rt.quantization.formats import E4m3, Int4, from_e4m3, from_int4, to_e4m3
from alpamayo_rt.quantization.linear import Fp8Linear, Int4Linear, has_fp8, product_reference
from alpamayo_rt.quantization.plan import Plan, quantize
from alpamayo_rt.verify.rows import relative_l2

SHAPES = [(1, 1, 1), (3, 130, 7), (5, 64, 48), (2, 257, 33)]


def layer(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias)


def narrowed(precision: str, linear: nn.Linear, amax: float | None = None) -> nn.Module:
    plan = Plan(precision, amax=None if amax is None else {"x": amax}, static=amax is not None)
    return plan.convert("x", linear, linear.weight.detach())


@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_sums_what_it_holds(shape: tuple[int, int, int]) -> None:
    n, inputs, outputs = shape
    linear = layer(inputs, outputs)
    made = narrowed("fp8", linear)
    assert isinstance(made, Fp8Linear)
    x = torch.randn(2, n, inputs)
    held = from_e4m3(E4m3(made.weight, made.weight_scale)).double()
    expected = from_e4m3(to_e4m3(x)).double() @ held.t() + linear.bias.double()
    assert made(x).shape == (2, n, outputs)
    assert relative_l2(made(x).detach(), expected.detach()) < 1e-5
    # Two factors, each rounded by at most a sixteenth of itself.
    exact = x.double() @ linear.weight.double().t()
    size = x.double().abs() @ linear.weight.double().abs().t()
    assert bool(((made(x).double() - linear.bias.double() - exact).abs() <= size * 0.14 + 1e-6).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_sums_what_it_holds(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    n, inputs, outputs = shape
    linear = layer(inputs, outputs).to(dtype)
    made = narrowed("int4", linear)
    assert isinstance(made, Int4Linear)
    x = torch.randn(n, inputs).to(dtype)
    held = from_int4(Int4(made.weight, made.weight_scale, made.weight_zero), inputs).double()
    expected = x.double() @ held.t() + linear.bias.double()
    assert made(x).dtype == dtype
    assert relative_l2(made(x).detach(), expected.detach()) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_a_fixed_input_scale_is_used() -> None:
    made = narrowed("fp8", layer(16, 16, bias=False), amax=2.0)
    inside, beyond = torch.full((1, 16), 2.0), torch.full((1, 16), 50.0)
    assert torch.equal(made(inside), made(beyond))
    assert float(made.input_scale) == pytest.approx(2 / 448)


def test_quantize_replaces_the_layers_of_its_parts() -> None:
    network = nn.Module()
    network.language = nn.Sequential(layer(8, 8), nn.ReLU())
    network.language.lm_head = layer(8, 8)
    network.expert = nn.Module()
    network.expert.decoder, network.expert.action_out_proj = layer(8, 8), layer(8, 2)
    network.expert.decoder = nn.Sequential(layer(8, 8))
    quantize(network, "int4", ("language",))
    assert isinstance(network.language[0], Int4Linear)
    assert isinstance(network.language.lm_head, nn.Linear)
    assert isinstance(network.expert.decoder[0], nn.Linear)
    quantize(network, "fp8", ("expert", "language"))
    assert isinstance(network.language[0], Int4Linear)
    assert isinstance(network.language.lm_head, Fp8Linear)
    assert isinstance(network.expert.decoder[0], Fp8Linear)
    assert isinstance(network.expert.action_out_proj, nn.Linear)


def test_what_cannot_be_narrowed_is_refused() -> None:
    network = nn.Module()
    network.language = nn.Sequential(layer(4, 4))
    with pytest.raises(InputError, match="precision: 'fp4', expected fp8 or int4"):
        quantize(network, "fp4")
    with pytest.raises(InputError, match="parts: wheels"):
        quantize(network, "fp8", ("wheels",))
    network.language[0].weight.data[1, 2] = torch.nan
    for precision in ("fp8", "int4"):
        with pytest.raises(ModelError, match=r"language\.0\.weight: holds a value that is not finite"):
            quantize(network, precision)


@pytest.mark.gpu
def test_the_library_gives_what_the_reference_gives() -> None:
    cuda = torch.device("cuda")
    if not has_fp8(cuda):
        pytest.skip("needs a CUDA device with fp8 products")
    linear = layer(256, 512, bias=False).to(cuda, torch.bfloat16)
    for amax in (None, 4.0):
        made = narrowed("fp8", linear, amax)
        for n in (1, 7, 33):
            x = torch.randn(n, 256, device=cuda, dtype=torch.bfloat16)
            expected = product_reference(to_e4m3(x, made.input_scale), E4m3(made.weight, made.weight_scale))
            assert relative_l2(made(x).detach(), expected.detach()) < 5e-3

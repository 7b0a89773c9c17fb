# SPDX-License-Identifier: Apache-2.0
"""cuBLASLt itself: every candidate against float64, in a graph as outside of one, in each mode."""

from __future__ import annotations

import pytest
import torch
from product_cases import WAYS, exact, exact_scaled, near, operands, scaled_operands

from alpamayo_rt.kernels.products import choice
from alpamayo_rt.kernels.products.choice import Products, by_torch, key_of
from alpamayo_rt.kernels.products.library import Library, find_library
from alpamayo_rt.kernels.products.operations import linear_into
from alpamayo_rt.kernels.products.product import Product, Scales

pytestmark = pytest.mark.gpu
TYPES = [torch.bfloat16, torch.float16]
SMALL = [(7, 24, 40), (129, 72, 200), (300, 136, 88), (33, 31, 17)]
"""(m, n, k); no tile fits the last, and nothing of it is aligned."""
RELEASED = [(2880, 3456, 1152), (2880, 1152, 1152), (2880, 4304, 1152), (2880, 1152, 4304), (3136, 4096, 4096)]


@pytest.fixture(scope="module")
def library() -> Library:
    functions = find_library()
    assert functions is not None, "torch for CUDA comes with cuBLASLt"
    return Library(functions, torch.device("cuda", 0))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
@pytest.mark.parametrize("spare", [0, 8])
@pytest.mark.parametrize(("m", "n", "k"), SMALL[:3] + RELEASED[:3])
def test_all_candidates(
    library: Library, m: int, n: int, k: int, spare: int, bias: bool, gelu: bool, add: bool, dtype: torch.dtype
) -> None:
    x, weight, out, shift = operands(m, n, k, dtype, "cuda", spare)
    given = shift if bias else None
    product = Product(x, weight, out, given, gelu, add)
    key = key_of(product)
    assert key is not None
    plan = library.plan(key, product)
    assert plan.candidates
    expected, before = exact(x, weight, out, given, gelu, add), out.clone()
    for number in range(len(plan.candidates)):
        out.copy_(before)
        plan.run(number, product)
        near(out, expected)


@pytest.mark.parametrize("mode", choice.MODES)
@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
@pytest.mark.parametrize(("m", "n", "k"), [*SMALL, *RELEASED])
def test_chosen_products(
    library: Library, m: int, n: int, k: int, bias: bool, gelu: bool, add: bool, mode: str
) -> None:
    products = Products(mode, lambda device: library.plan)
    x, weight, out, shift = operands(m, n, k, torch.bfloat16, "cuda")
    given = shift if bias else None
    expected, before = exact(x, weight, out, given, gelu, add), out.clone()
    results = []
    for _ in range(3):
        out.copy_(before)
        products(Product(x, weight, out, given, gelu, add))
        near(out, expected)
        results.append(out.clone())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    (chosen,) = products.chosen.values()
    if mode == "torch" or k % 8 == 0:
        assert chosen == "torch" if mode == "torch" else chosen == "#0" or mode == "fastest"


@pytest.mark.parametrize("mode", choice.MODES)
@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
@pytest.mark.parametrize(("m", "n", "k"), [(7, 32, 48), (129, 64, 208), *RELEASED])
def test_products_of_e4m3(m: int, n: int, k: int, bias: bool, gelu: bool, add: bool, mode: str) -> None:
    products = Products(mode)
    x, weight, out, shift = scaled_operands(m, n, k, torch.bfloat16, "cuda")
    given, scales = shift if bias else None, Scales(x.scale, weight.scale)
    expected, before = exact_scaled(x, weight, out, given, gelu, add), out.clone()
    for _ in range(2):
        out.copy_(before)
        products(Product(x.values, weight.values, out, given, gelu, add, scales=scales))
        # Sums of fast products of e4m3 keep fewer than float32's bits.
        assert (out.double() - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
def test_in_a_graph(bias: bool, gelu: bool, add: bool, known: bool) -> None:
    """The replay of a captured product equals the call, with inputs that came after the capture."""
    products = Products("fastest")
    m, n, k = 2880, 1152, 1152
    x, weight, out, shift = operands(m, n, k, torch.bfloat16, "cuda")
    given = shift if bias else None
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            if known:
                products(Product(x, weight, out, given, gelu, add))
            else:  # torch's library has its handle before a capture
                by_torch(Product(x, weight, out, given, gelu, add))
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        products(Product(x, weight, out, given, gelu, add))
    assert len(products.chosen) == known
    x.copy_(torch.randn_like(x))
    start = torch.randn_like(out)
    out.copy_(start)
    expected = exact(x, weight, out, given, gelu, add)
    graph.replay()
    replayed = out.clone()
    near(replayed, expected)
    if known:
        out.copy_(start)
        products(Product(x, weight, out, given, gelu, add))
        assert torch.equal(replayed, out)


def test_timing_leaves_what_is_added_to_and_the_random_numbers() -> None:
    x, weight, out, _ = operands(2880, 1152, 1152, torch.bfloat16, "cuda")
    expected = exact(x, weight, out, None, False, True)
    torch.cuda.manual_seed(3)
    first = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(3)
    Products("fastest")(Product(x, weight, out, add=True))
    near(out, expected)
    assert torch.equal(first, torch.rand(4, device="cuda"))


def test_float32_is_torch_s() -> None:
    x, weight, out, bias = operands(33, 24, 40, torch.float32, "cuda")
    expected = exact(x, weight, out, bias, True, False)
    linear_into(x, weight, out, bias, gelu=True)
    assert (out.double() - expected).norm() < 1e-3 * expected.norm()  # TF32 may be on

# SPDX-License-Identifier: Apache-2.0
"""Products of many rows: twins against float64, the choice with a library and a clock that are made up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from product_cases import TOLERANCE, WAYS, exact, exact_scaled, near, operands, scaled_operands

from alpamayo_rt.errors import EngineError
from alpamayo_rt.kernels.products import choice, timing
from alpamayo_rt.kernels.products.choice import Products, by_torch, key_of
from alpamayo_rt.kernels.products.library import Key, LibraryError
from alpamayo_rt.kernels.products.operations import (
    is_one_launch,
    linear_into,
    linear_into_twin,
    scaled_linear_into,
)
from alpamayo_rt.kernels.products.product import Product, Scales
from alpamayo_rt.quantization.formats import E4m3


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
@pytest.mark.parametrize("spare", [0, 3])
def test_twin_and_torch_against_float64(
    dtype: torch.dtype, bias: bool, gelu: bool, add: bool, spare: int
) -> None:
    for run in (linear_into, linear_into_twin, lambda *given: by_torch(Product(*given))):
        x, weight, out, shift = operands(5, 7, 13, dtype, spare=spare)
        given = shift if bias else None
        expected = exact(x, weight, out, given, gelu, add)
        run(x, weight, out, given, gelu, add)
        near(out, expected)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [False, True])
def test_a_base_is_added_and_left_alone(dtype: torch.dtype, bias: bool) -> None:
    for run in (linear_into, linear_into_twin, lambda *given: by_torch(Product(*given))):
        x, weight, out, shift = operands(5, 7, 13, dtype)
        base, given = operands(5, 7, 14, dtype)[2], shift if bias else None
        before, expected = base.clone(), exact(x, weight, base, given, False, True)
        run(x, weight, out.fill_(torch.nan), given, False, True, base)
        near(out, expected)
        assert torch.equal(base, before)


def test_a_base_that_lies_otherwise_or_is_not_added_is_refused() -> None:
    x, weight, out, _ = operands(4, 6, 8, torch.float32)
    apart = operands(4, 6, 8, torch.float32, spare=2)[2]
    for base, add in ((out.clone(), False), (apart, True), (out.double(), True), (out[:3], True)):
        with pytest.raises(ValueError, match="base: expected"):
            linear_into(x, weight, out, add=add, base=base)


def test_gelu_of_a_sum_is_refused() -> None:
    x, weight, out, _ = operands(2, 2, 2, torch.float32)
    with pytest.raises(ValueError, match="gelu and add"):
        linear_into(x, weight, out, gelu=True, add=True)
    narrow = E4m3(x.to(torch.float8_e4m3fn), x[:, :1])
    with pytest.raises(ValueError, match="gelu and add"):
        scaled_linear_into(narrow, narrow, out, gelu=True, add=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
def test_e4m3_against_float64(dtype: torch.dtype, bias: bool, gelu: bool, add: bool) -> None:
    x, weight, out, shift = scaled_operands(5, 7, 13, dtype)
    given = shift if bias else None
    expected = exact_scaled(x, weight, out, given, gelu, add)
    scaled_linear_into(x, weight, out, given, gelu, add)
    near(out, expected)
    assert is_one_launch(x, weight, out, given, gelu, add)


@dataclass
class FakePlan:
    """Proposals that do as torch does and count their calls; some are refused."""

    candidates: list[object]
    key: Key
    refused: set[int] = field(default_factory=set)
    calls: list[int] = field(default_factory=list)

    def run(self, number: int, product: Product) -> None:
        assert key_of(product) is not None
        if number in self.refused:
            raise LibraryError("refused")
        self.calls.append(number)
        by_torch(product)


@dataclass
class Bench:
    """A library, a clock and a stream that are made up."""

    milliseconds: list[float]
    """Of each proposal, and last of torch."""
    refused: set[int] = field(default_factory=set)
    plans: list[FakePlan] = field(default_factory=list)
    captures: bool = False
    timed: int = 0

    def products(self, mode: str | None = "fastest") -> Products:
        return Products(
            mode, lambda device: self.plan, self.clock, lambda device: nullcontext(), lambda: self.captures
        )

    def plan(self, key: Key, product: Product) -> FakePlan:
        self.plans.append(FakePlan([object()] * (len(self.milliseconds) - 1), key, self.refused))
        return self.plans[-1]

    def clock(self, call: Callable[[int], None], times: int) -> float:
        plan = self.plans[-1]
        before = len(plan.calls)
        for i in range(times):
            call(i)
        self.timed += times
        run = plan.calls[-1] if len(plan.calls) > before else -1
        return self.milliseconds[run]


def run_checked(
    products: Products, m: int = 6, bias: bool = True, gelu: bool = False, add: bool = False
) -> None:
    """A product is right, whatever is chosen, and also when it is the first of its kind."""
    x, weight, out, shift = operands(m, 16, 8, torch.bfloat16)
    given = shift if bias else None
    expected = exact(x, weight, out, given, gelu, add)
    products(Product(x, weight, out, given, gelu, add))
    near(out, expected)


@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
@pytest.mark.parametrize(
    ("milliseconds", "refused", "chosen"),
    [
        ([3.0, 1.0, 2.0, 4.0], set(), "#1"),
        ([3.0, 1.0, 2.0, 4.0], {1}, "#2"),
        ([1.005, 1.0, 2.0, 4.0], set(), "#0"),  # not worth it
        ([3.0, 1.0, 2.0, 0.5], set(), "torch"),
        ([3.0, 1.0, 4.0], {0, 1}, "torch"),
    ],
)
def test_the_fastest_is_chosen_once(
    milliseconds: list[float], refused: set[int], chosen: str, bias: bool, gelu: bool, add: bool
) -> None:
    bench = Bench(milliseconds, refused)
    products = bench.products()
    for _ in range(3):
        run_checked(products, bias=bias, gelu=gelu, add=add)
    (plan,) = bench.plans
    assert list(products.chosen.values()) == [chosen]
    if chosen != "torch":
        assert plan.calls[-3:] == [int(chosen[1:])] * 3
    run_checked(products, m=7)
    assert len(bench.plans) == len(products.chosen) == 2


@pytest.mark.parametrize(("taken", "calls"), [(1e-3, timing.MOST_CALLS), (1.0, 2), (100.0, 1)])
def test_timing_is_bounded(taken: float, calls: int) -> None:
    bench = Bench([taken, taken, taken])
    run_checked(bench.products())
    assert bench.timed == 1 + 3 * timing.ROUNDS * calls


def test_nothing_is_timed_nor_proposed_in_a_capture() -> None:
    bench = Bench([3.0, 1.0, 2.0], captures=True)
    products = bench.products()
    run_checked(products)
    assert (bench.plans, products.chosen) == ([], {})
    bench.captures = False
    run_checked(products)
    timed, bench.captures = bench.timed, True
    run_checked(products)
    assert bench.timed == timed
    assert bench.plans[0].calls[-2:] == [1, 1]


def test_the_first_and_torch_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench([3.0, 1.0, 2.0])
    for mode, chosen in (("first", "#0"), ("torch", "torch")):
        monkeypatch.setenv(choice.VARIABLE, mode)
        products = bench.products(None)
        run_checked(products)
        assert list(products.chosen.values()) == [chosen]
    assert (bench.timed, len(bench.plans)) == (0, 1)


def test_another_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "quickest")
    with pytest.raises(EngineError, match=r"ALPAMAYO_RT_PRODUCTS: 'quickest', expected one of fastest, first"):
        run_checked(Bench([1.0, 2.0]).products(None))


@pytest.mark.parametrize("fails", ["missing", "binding", "plan", "nothing"])
def test_without_the_library_torch_computes_and_one_line_says_so(
    fails: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*given: object) -> None:
        raise LibraryError("cublasLtCreate: status 1, expected 0")

    bench = Bench([1.0])
    plans = {"missing": None, "binding": raises, "plan": lambda device: raises, "nothing": lambda d: bench.plan}
    if fails == "missing":
        monkeypatch.setattr(choice, "find_library", lambda: None)
        monkeypatch.setattr(choice, "_library_plans", choice._library_plans.__wrapped__)
    products = Products(
        "fastest", plans[fails], bench.clock, lambda device: nullcontext(), lambda: False
    )  # fmt: skip
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            run_checked(products)
    assert list(products.chosen.values()) == ["torch"]
    (record,) = caplog.records
    assert "torch's own" in record.message
    if fails in ("missing", "binding"):
        run_checked(products, m=9)
        assert len(caplog.records) == 1


def test_what_the_library_is_not_for_goes_to_torch() -> None:
    x, weight, out, bias = operands(6, 16, 8, torch.bfloat16)
    assert key_of(Product(x, weight, out, bias)) is not None
    assert key_of(Product(x.float(), weight.float(), out.float(), None)) is None
    assert key_of(Product(x, weight, out, bias.float())) is None
    assert key_of(Product(x.t().contiguous().t(), weight, out, bias)) is None
    assert key_of(Product(x[:1].expand(6, -1), weight, out, bias)) is None
    assert key_of(Product(x[:0], weight, out[:0], bias)) is None
    bench = Bench([1.0, 2.0])
    products = bench.products()
    turned = x.t().contiguous().t()
    products(Product(turned, weight, out, bias))
    near(out, exact(x, weight, out, bias, False, False))
    assert products.chosen == {}


def test_keys_say_strides_and_alignments() -> None:
    x, weight, out, bias = operands(6, 16, 8, torch.bfloat16, spare=8)
    whole, *_ = operands(6, 16, 40, torch.bfloat16)
    x = whole[:, 24:32]  # 48 bytes behind a multiple of 256
    key = key_of(Product(x, weight, out, bias, gelu=True))
    assert key is not None
    assert (key.m, key.n, key.k, key.strides) == (6, 16, 8, (40, 16, 24))
    assert key.alignments[0] == 16
    assert key.alignments[1:] == (256, 256, 256)
    assert (key.bias, key.gelu, key.add) == (True, True, False)
    # What is added is read as out is written.
    room = torch.empty(6 * 24 + 256, dtype=torch.bfloat16)
    start = -room.data_ptr() % 256 // 2 + 8  # 16 bytes behind a multiple of 256
    base = room[start:][: 6 * 24].view(6, 24)[:, :16]
    key = key_of(Product(x, weight, out, add=True, base=base))
    assert key is not None
    assert key.alignments[2] == 16


def test_scratch_stays_within_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, out, bias = operands(6, 16, 8, torch.bfloat16, spare=2)
    product = Product(x, weight, out, bias, add=True, base=out.clone())
    sizes = [t.shape[0] * t.stride(0) * 2 for t in (out, x, weight)]

    def scratch(room: int) -> list[Product]:
        monkeypatch.setattr(timing, "SCRATCH_BYTES", room)
        return timing.scratch_products(product)

    full = scratch(sum(sizes) + 2 * sizes[2])
    assert all((made.bias is bias, made.add, made.base) == (True, True, None) for made in full)
    assert len({(made.out.data_ptr(), made.x.data_ptr()) for made in full}) == 1
    own = [full[0].out, full[0].x, *(made.weight for made in full)]
    assert len({t.data_ptr() for t in [*own, x, weight, out]}) == 8
    for made, like in zip(own, [out, x, weight, weight, weight], strict=True):
        assert (made.shape, made.stride()) == (like.shape, like.stride())
    (some,) = scratch(sizes[0] + sizes[1])
    assert some.x is not x
    assert some.weight is weight
    assert scratch(sizes[0] - 1) == []
    monkeypatch.setattr(timing, "SCRATCH_BYTES", 0)
    bench = Bench([2.0, 1.0, 3.0])
    products = bench.products()
    run_checked(products, add=True)
    assert list(products.chosen.values()) == ["#0"]


@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
@pytest.mark.parametrize(
    ("milliseconds", "chosen"), [([3.0, 1.0, 2.0], "#1"), ([3.0, 1.0, 0.5], "torch"), ([1.0], "torch")]
)
def test_e4m3_is_chosen_as_the_others(
    milliseconds: list[float], chosen: str, bias: bool, gelu: bool, add: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(milliseconds)
    products = bench.products()
    x, weight, out, shift = scaled_operands(6, 32, 16, torch.bfloat16)
    given, scales = shift if bias else None, Scales(x.scale, weight.scale)
    expected = exact_scaled(x, weight, out, given, gelu, add)
    with caplog.at_level(logging.INFO):
        products(Product(x.values, weight.values, out, given, gelu, add, scales=scales))
        near(out, expected)
        expected = exact_scaled(x, weight, out, given, gelu, add)
        products(Product(x.values, weight.values, out, given, gelu, add, scales=scales))
    near(out, expected)
    ((key, found),) = products.chosen.items()
    assert (found, key.inputs, key.dtype) == (chosen, torch.float8_e4m3fn, torch.bfloat16)
    before = out.clone()
    alone = products.is_one_launch(Product(x.values, weight.values, out, given, gelu, add, scales=scales))
    assert (alone, len(bench.plans)) == (chosen != "torch", 1)
    assert torch.equal(out, before)
    # What a library lacks for one combination is said once, and names it.
    lines = [record.message for record in caplog.records]
    assert len(lines) == (len(milliseconds) == 1)
    assert all("6 x 32 x 16 in e4m3" in line and ("GELU" in line) == gelu for line in lines)


def test_e4m3_in_a_capture_that_nobody_has_prepared() -> None:
    bench = Bench([3.0, 1.0, 2.0], captures=True)
    products = bench.products()
    x, weight, out, _ = scaled_operands(6, 32, 16, torch.bfloat16)
    scales = Scales(x.scale, weight.scale)
    assert not products.is_one_launch(Product(x.values, weight.values, out, add=True, scales=scales))
    assert bench.plans == []


def test_what_the_library_is_not_for_in_e4m3() -> None:
    x, weight, out, bias = scaled_operands(6, 32, 16, torch.bfloat16)
    scales = Scales(x.scale, weight.scale)
    good = Product(x.values, weight.values, out, bias, scales=scales)
    assert key_of(good) is not None
    for bad in (
        good._replace(out=out.float(), bias=None),
        good._replace(out=out.half(), bias=None),
        good._replace(bias=bias.float()),
        good._replace(x=x.values[:, :8], weight=weight.values[:, :8]),
        good._replace(weight=weight.values[:24], out=out[:, :24], bias=bias[:24]),
        good._replace(scales=scales._replace(x=x.scale[:1])),
        good._replace(scales=scales._replace(x=x.scale[:1].expand(6, 1))),
        good._replace(scales=scales._replace(weight=weight.scale.double())),
    ):
        assert key_of(bad) is None


def test_weights_are_more_than_a_cache_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, out, _ = operands(6, 16, 8, torch.bfloat16)
    size = weight.numel() * 2
    for cold, count in ((5 * size, 5), (5 * size - 1, 5), (size, timing.LEAST_WEIGHTS), (99 * size, 16)):
        monkeypatch.setattr(timing, "COLD_BYTES", cold)
        made = timing.scratch_products(Product(x, weight, out))
        assert len({one.weight.data_ptr() for one in made}) == len(made) == count
        assert count <= timing.MOST_CALLS


def test_e4m3_is_timed_on_numbers_of_its_range() -> None:
    x, weight, out, _ = scaled_operands(6, 32, 16, torch.bfloat16)
    scales = Scales(x.scale, weight.scale)
    made = timing.scratch_products(Product(x.values, weight.values, out, scales=scales))
    assert len(made) == timing.MOST_WEIGHTS
    assert all((one.scales, one.out is out) == (scales, True) for one in made)
    for tensor in (made[0].x, *(one.weight for one in made)):
        assert tensor.dtype == torch.float8_e4m3fn
        assert bool(torch.isfinite(tensor.float()).all())
        assert 50 < float(tensor.float().std()) < 200

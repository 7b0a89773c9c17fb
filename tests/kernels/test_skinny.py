# SPDX-License-Identifier: Apache-2.0
"""Skinny linear layers: the twins against float64, the kernels (in Triton's interpreter) against the same."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from interpreted import run_again_in_the_interpreter
from torch.nn import functional as F

from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.kernels.skinny import configurations, operations
from alpamayo_rt.kernels.skinny.configurations import Configuration
from alpamayo_rt.kernels.skinny.weights import SkinnyWeight
from alpamayo_rt.quantization.formats import to_int4, weight_to_e4m3

GPU = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]
EPS = 1e-6
# (N, K): odd ones, powers of two, several tiles along K, a last group of 128 that is short.
SHAPES = [(7, 24), (12, 256), (9, 160), (5, 1300)]
REAL = [(4096, 12288), (6144, 4096), (155_697, 4096)]
KINDS = ["float", "e4m3", "int4"]
# A case takes a second in the interpreter: there, a third of them unless all tests are asked for.
THINNED = os.environ.get("TRITON_INTERPRET") == "1" and os.environ.get("ALPAMAYO_RT_TEST_ALL") != "1"


def crossed(first: list[Any], second: list[Any], third: list[Any]) -> list[tuple[Any, Any, Any]]:
    """Every combination; of a thinned run, those where each of the first two meets each, once."""
    return [
        (a, b, c)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        for k, c in enumerate(third)
        if not THINNED or k == (i + j) % len(third)
    ]


@pytest.fixture(params=GPU)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_weight(kind: str, n: int, k: int, dtype: torch.dtype, device: str) -> SkinnyWeight:
    generator = torch.Generator(device).manual_seed(1)
    full = torch.randn(n, k, generator=generator, device=device) * k**-0.5
    if kind == "e4m3":
        return SkinnyWeight(*weight_to_e4m3(full))
    if kind == "int4":
        return SkinnyWeight(*to_int4(full))
    return SkinnyWeight(full.to(dtype))


def normed(x: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    x, norm = x.double(), norm.double()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * norm


def assert_close(mine: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Relative L2 distance; the interpreter cuts bfloat16 off instead of rounding it."""
    assert bool(torch.isfinite(mine).all())
    error = (mine.double() - expected).norm() / expected.norm()
    cut = os.environ.get("TRITON_INTERPRET") == "1"
    bound = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 4e-2 if cut else 1.2e-2}[dtype]
    assert float(error) < bound


def check_all(rows: int, n: int, k: int, kind: str, dtype: torch.dtype, device: str, suffix: str = "") -> None:
    """Each operation against float64, the results' buffers poisoned before."""
    a, norm = random(rows, k, dtype=dtype).to(device) * 3, (random(k, seed=2, dtype=dtype) + 1).to(device)
    weight = make_weight(kind, n, k, dtype, device)
    exact = weight.restored(k, torch.float64)
    run = {name: getattr(operations, name + suffix) for name in ("linear", "linear_add", "norm_linear")}

    out = torch.full((rows, n), torch.nan, device=device, dtype=dtype)
    run["linear"](a, weight, out)
    assert_close(out, a.double() @ exact.T, dtype)

    logits = torch.full((rows, n), torch.nan, device=device)
    run["norm_linear"](a, norm, EPS, weight, logits)
    assert_close(logits, normed(a, norm) @ exact.T, dtype)

    x = random(rows, n, seed=3, dtype=dtype).to(device)
    expected = x.double() + a.double() @ exact.T
    run["linear_add"](a, weight, x)
    assert_close(x, expected, dtype)

    gate_up = SkinnyWeight.stacked([weight, make_weight(kind, n, k, dtype, device)])
    other = SkinnyWeight(*(None if t is None else t.flip(0) for t in gate_up))  # gate is not up
    gate, up = (normed(a, norm) @ other.restored(k, torch.float64).T).chunk(2, -1)
    hidden = torch.full((rows, n), torch.nan, device=device, dtype=dtype)
    getattr(operations, "norm_linear_swiglu" + suffix)(a, norm, EPS, other, hidden)
    assert_close(hidden, F.silu(gate) * up, dtype if dtype == torch.float32 else torch.bfloat16)


@pytest.mark.parametrize(("shape", "rows", "kind"), crossed(SHAPES, [1, 2, 6, 16], KINDS), ids=str)
def test_against_float64(shape: tuple[int, int], rows: int, kind: str, device: str) -> None:
    check_all(rows, *shape, kind, torch.float32, device)


@pytest.mark.parametrize(
    ("dtype", "rows", "kind"), crossed([torch.bfloat16, torch.float16], [1, 3], KINDS), ids=str
)
def test_half_types(dtype: torch.dtype, rows: int, kind: str, device: str) -> None:
    check_all(rows, 9, 160, kind, dtype, device)


@pytest.mark.parametrize("kind", KINDS)
def test_twins(kind: str) -> None:
    for rows, dtype in ((1, torch.float32), (6, torch.bfloat16)):
        check_all(rows, 33, 160, kind, dtype, "cpu", "_twin")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 6, 16])
@pytest.mark.parametrize("shape", REAL, ids=str)
def test_released_sizes(shape: tuple[int, int], rows: int, kind: str) -> None:
    check_all(rows, *shape, kind, torch.bfloat16, "cuda")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5])
def test_every_way_to_cut(rows: int, kind: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even and uneven tiles, split and unsplit, deeper than K is long; an entry of the table is obeyed."""
    n, k = 5, 512
    long = 128 if kind == "int4" else 64
    ways = (
        [Configuration(2, 256, 1, 1), Configuration(4, 512, 1, 2), Configuration(8, 1024, 2, 4, ahead=True)]
        if rows == 1
        else [
            Configuration(16, long, 1, 2, 1),
            Configuration(16, long, 2, 3, 2),
            Configuration(32, 128, 4, 2, 8, True),
        ]
    )
    for way in ways:
        for outputs in (n, 2 * n):
            key = (configurations.rows_class(rows), kind, outputs, k)
            monkeypatch.setitem(configurations.TABLE, key, way)
            assert configurations.choose(rows, kind, outputs, k) == way
        check_all(rows, n, k, kind, torch.bfloat16 if device == "cuda" else torch.float32, device)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("ahead", [False, True])
def test_programmatic_launch(rows: int, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured chain, each kernel reading what the one before wrote, is the same as without the overlap."""
    n = k = 4096
    weights = [make_weight("float", n, k, torch.bfloat16, "cuda") for _ in range(4)]
    norm, results = torch.ones(k, device="cuda", dtype=torch.bfloat16), []
    way = configurations.default(rows, "float", n, k)._replace(ahead=ahead)
    monkeypatch.setitem(configurations.TABLE, (configurations.rows_class(rows), "float", n, k), way)
    for overlap in (False, True):
        monkeypatch.setattr(configurations, "PROGRAMMATIC_LAUNCH", overlap)
        start = random(rows, k, dtype=torch.bfloat16).cuda()
        x, h = start.clone(), torch.empty_like(start)

        def chain(x: torch.Tensor = x, h: torch.Tensor = h) -> None:
            for weight in weights * 8:
                operations.norm_linear(x, norm, EPS, weight, h)
                operations.linear_add(h, weight, x)

        chain()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chain()
        for _ in range(20):
            x.copy_(start)
            graph.replay()
            results.append(x.clone())
    assert all(torch.equal(result, results[0]) for result in results)


def test_programs_beyond_the_matrix_write_nothing(device: str) -> None:
    """Outputs are a slice of a larger buffer, whose rest stays as it was."""
    buffer = torch.full((40,), 7.0, device=device, dtype=torch.bfloat16)
    out = buffer[:33].view(1, 33)
    operations.linear(
        random(1, 160, dtype=torch.bfloat16).to(device),
        make_weight("float", 33, 160, torch.bfloat16, device),
        out,
    )
    assert bool((buffer[33:] == 7).all())
    assert not bool((out == 7).any())


@pytest.mark.parametrize(("width", "half"), [(24, 64), (1500, 12)])
def test_embed_and_place(width: int, half: int, device: str) -> None:
    table, ids = random(50, width, dtype=torch.bfloat16).to(device), torch.tensor([3, 49, 0], device=device)
    angles = random(90, half, seed=1).to(device), random(90, half, seed=2).to(device)
    positions = torch.tensor([89, 0, 7], device=device)
    out = torch.full((3, width), torch.nan, device=device, dtype=torch.bfloat16)
    cos, sin = torch.full((2, 3, half), torch.nan, device=device)
    operations.embed_and_place(table, ids, out, angles, positions, (cos, sin))
    assert torch.equal(out, table[ids])
    assert torch.equal(cos, angles[0][positions])
    assert torch.equal(sin, angles[1][positions])


def test_the_twin_rounds_as_the_modules_do() -> None:
    from alpamayo_rt.model.decoder import RMSNorm

    x, module = random(6, 160, dtype=torch.bfloat16), RMSNorm(160, EPS).bfloat16()
    module.weight.data.copy_(random(160, seed=2) + 1)
    weight = make_weight("float", 33, 160, torch.bfloat16, "cpu")
    logits = torch.empty(6, 33)
    operations.norm_linear_twin(x, module.weight.data, EPS, weight, logits)
    assert torch.equal(logits, F.linear(module(x).float(), weight.values.float()))


def test_kernels_in_the_interpreter() -> None:
    """The tests above once more with Triton's kernels, which run in numpy where there is no GPU."""
    run_again_in_the_interpreter(__file__)


def test_the_interpreter_is_what_runs_there() -> None:
    expected = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    assert uses_triton(torch.empty(1, device="cuda" if torch.cuda.is_available() else "cpu")) == expected

# SPDX-License-Identifier: Apache-2.0
"""The binding of cuBLASLt, against functions that take what the library takes and compute as it would."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from product_cases import WAYS, exact, exact_scaled, near, operands, scaled_operands
from torch.nn import functional as F

from alpamayo_rt.kernels.products import library
from alpamayo_rt.kernels.products.choice import key_of
from alpamayo_rt.kernels.products.lanes import lane
from alpamayo_rt.kernels.products.library import HeuristicResult, Library, LibraryError, find_library
from alpamayo_rt.kernels.products.product import Product, Scales

STREAM = 4711


def value(given: Any) -> Any:
    """Of a handle, an address or a number."""
    return given.value if hasattr(given, "value") else given


class FakeFunction:
    """A function of a library: it can be given a signature, holds callers to it, and returns a status."""

    def __init__(self, work: Any):
        self.work, self.argtypes, self.restype = work, (), None

    def __call__(self, *arguments: Any) -> int:
        assert len(arguments) == len(self.argtypes)
        for kind, argument in zip(self.argtypes, arguments, strict=True):
            kind.from_param(argument)  # raises on what ctypes would not take
        return self.work(*arguments) or library.SUCCESS


class FakeLibrary:
    """As cuBLASLt counts: columns first; descriptors are numbers."""

    def __init__(self, states: tuple[int, ...] = (0, 0), status: int = 0):
        self.made: dict[int, dict[Any, Any]] = {}
        self.states, self.status, self.runs = states, status, []
        self.workspaces: list[int] = []
        for name in library._SIGNATURES:
            setattr(self, name, FakeFunction(getattr(self, f"_{name.removeprefix('cublasLt')}")))

    def _new(self, place: Any, **content: Any) -> None:
        place._obj.value = 1000 + len(self.made)
        self.made[place._obj.value] = dict(content)

    def _Create(self, place: Any) -> None:
        self._new(place)

    def _MatmulDescCreate(self, place: Any, compute: int, scale: int) -> None:
        self._new(place, compute=compute, scale=scale)

    def _MatmulDescSetAttribute(self, which: Any, attribute: int, place: Any, size: int) -> None:
        assert size == ctypes.sizeof(place._obj) == {8: 8, 17: 8, 18: 8, 25: 1}.get(attribute, 4)
        self.made[value(which)][attribute] = place._obj.value

    def _MatrixLayoutCreate(self, place: Any, kind: int, rows: int, columns: int, stride: int) -> None:
        self._new(place, kind=kind, shape=(rows, columns), stride=stride)

    def _MatmulPreferenceCreate(self, place: Any) -> None:
        self._new(place)

    def _MatmulPreferenceSetAttribute(self, which: Any, attribute: int, place: Any, size: int) -> None:
        assert size == ctypes.sizeof(place._obj) == {1: 8}.get(attribute, 4)
        self.made[value(which)][attribute] = place._obj.value

    def _MatmulPreferenceDestroy(self, which: Any) -> None:
        self.made[value(which)]["gone"] = True

    def _MatmulAlgoGetHeuristic(self, *given: Any) -> int:
        *_, preference, most, results, found = given
        self.preference = dict(self.made[value(preference)])
        for i, state in enumerate(self.states):
            results[i].state, results[i].algo[0] = state, 70 + i
        assert len(self.states) <= most == len(results)
        found._obj.value = len(self.states)
        return self.status

    def _Matmul(self, handle: Any, description: Any, *given: Any) -> None:
        alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm, workspace, size, stream = (
            given
        )
        assert (value(c_layout), stream) == (value(d_layout), STREAM)
        assert workspace
        self.workspaces.append(workspace)
        assert (size, value(handle)) == (library.WORKSPACE_BYTES, 1000)
        how = self.made[value(description)]
        assert (how["compute"], how["scale"], alpha._obj.value) == (68, 0, 1.0)
        places = ((a, a_layout), (b, b_layout), (c, c_layout))
        left, right, base = (self._matrix(p, at) for p, at in places)
        made = (left.T if how[3] else left) @ (right.T if how[4] else right)
        if 31 in how:
            assert (how[31], how[32], how[25]) == (3, 3, 1)
            rows, columns = (
                (ctypes.c_float * size).from_address(how[at])
                for at, size in zip((17, 18), made.shape, strict=True)
            )
            made = made * np.frombuffer(rows, np.float32)[:, None] * np.frombuffer(columns, np.float32)
        made = made + beta._obj.value * base
        epilogue = how[7]
        if epilogue in (4, 36):
            made = made + self._read(how[8], len(made), self.made[value(d_layout)]["kind"])[:, None]
        if epilogue in (32, 36):
            made = F.gelu(torch.from_numpy(made), approximate="tanh").numpy()
        self._write(made, d, d_layout)
        self.runs.append(algorithm._obj[0])

    def _matrix(self, address: int, which: Any) -> np.ndarray:
        layout = self.made[value(which)]
        (rows, columns), stride = layout["shape"], layout["stride"]
        values = self._read(address, stride * (columns - 1) + rows, layout["kind"])
        return np.lib.stride_tricks.as_strided(values, (rows, columns), (8, 8 * stride))

    def _read(self, address: int, size: int, kind: int) -> np.ndarray:
        dtype = {2: torch.float16, 14: torch.bfloat16, 28: torch.float8_e4m3fn}[kind]
        memory = (ctypes.c_uint8 * (size * dtype.itemsize)).from_address(address)
        return torch.frombuffer(memory, dtype=dtype).double().numpy()

    def _write(self, made: np.ndarray, address: int, which: Any) -> None:
        layout = self.made[value(which)]
        dtype = {2: torch.float16, 14: torch.bfloat16}[layout["kind"]]
        (rows, columns), stride = layout["shape"], layout["stride"]
        memory = (ctypes.c_uint8 * ((stride * (columns - 1) + rows) * dtype.itemsize)).from_address(address)
        target = torch.frombuffer(memory, dtype=dtype).as_strided((columns, rows), (stride, 1))
        target.copy_(torch.from_numpy(made.T.copy()))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))


def test_the_structure_is_the_header_s() -> None:
    assert ctypes.sizeof(HeuristicResult) == 96
    offsets = [getattr(HeuristicResult, name).offset for name, _ in HeuristicResult._fields_]
    assert offsets == [0, 64, 72, 76, 80]


@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
@pytest.mark.parametrize("spare", [0, 5])
def test_products_are_those_of_row_major_matrices(bias: bool, gelu: bool, add: bool, spare: int) -> None:
    functions = FakeLibrary()
    x, weight, out, shift = operands(5, 7, 13, torch.float16, spare=spare)
    given = shift if bias else None
    product = Product(x, weight, out, given, gelu, add)
    key = key_of(product)
    assert key is not None
    plan = Library(functions, torch.device("cpu")).plan(key, product)  # type: ignore[arg-type]
    assert len(plan.candidates) == 2
    expected = exact(x, weight, out, given, gelu, add)
    plan.run(1, product)
    near(out, expected)
    assert functions.runs == [71]
    if bias:  # another layer's
        other = shift * 2
        expected = exact(x, weight, out, other, gelu, add)
        plan.run(0, product._replace(bias=other))
        near(out, expected)


def test_a_base_and_lanes() -> None:
    functions = FakeLibrary()
    x, weight, out, _ = operands(5, 7, 13, torch.float16)
    base = operands(5, 7, 14, torch.float16)[2]
    product = Product(x, weight, out, add=True, base=base)
    key = key_of(product)
    assert key is not None
    plan = Library(functions, torch.device("cpu")).plan(key, product)  # type: ignore[arg-type]
    expected = exact(x, weight, base, None, False, True)
    plan.run(0, product)
    near(out, expected)
    with lane(1):
        plan.run(0, product)
        with lane(2):
            plan.run(0, product)
        plan.run(0, product)
    plan.run(0, product)
    near(out, expected)
    first, *others = functions.workspaces
    assert others == [others[0], others[1], others[0], first]
    assert len({first, *others}) == 3


@pytest.mark.parametrize(("bias", "gelu", "add"), WAYS)
def test_products_of_e4m3_have_the_scales_of_each_call(bias: bool, gelu: bool, add: bool) -> None:
    functions = FakeLibrary()
    x, weight, out, shift = scaled_operands(6, 32, 16, torch.bfloat16)
    given, scales = shift if bias else None, Scales(x.scale, weight.scale)
    product = Product(x.values, weight.values, out, given, gelu, add, scales=scales)
    key = key_of(product)
    assert key is not None
    plan = Library(functions, torch.device("cpu")).plan(key, product)  # type: ignore[arg-type]
    expected = exact_scaled(x, weight, out, given, gelu, add)
    plan.run(1, product)
    near(out, expected)
    others = [matrix._replace(scale=matrix.scale.flip(0).contiguous()) for matrix in (x, weight)]
    expected = exact_scaled(*others, out, given, gelu, add)
    plan.run(0, product._replace(scales=Scales(*(matrix.scale for matrix in others))))
    near(out, expected)


def test_preferences() -> None:
    functions = FakeLibrary(states=(0, 15, 0))
    x, weight, out, bias = operands(5, 7, 24, torch.float16)
    x, weight = x[:, 8:], weight[:, 4:20]  # 16 and 8 bytes behind
    product = Product(x, weight, out, bias)
    key = key_of(product)
    assert key is not None
    plan = Library(functions, torch.device("cpu")).plan(key._replace(alignments=(16, 8, 256, 32)), product)  # type: ignore[arg-type]
    assert functions.preference == {1: library.WORKSPACE_BYTES, 3: 2, 5: 8, 6: 16, 7: 32, 8: 32}
    assert [c.algo[0] for c in plan.candidates] == [70, 72]
    assert all("gone" in made for made in functions.made.values() if 1 in made and 5 in made)


def test_statuses() -> None:
    x, weight, out, bias = operands(5, 7, 8, torch.float16)
    product = Product(x, weight, out, bias)
    key = key_of(product)
    assert key is not None
    cpu = torch.device("cpu")
    assert Library(FakeLibrary((), 15), cpu).plan(key, product).candidates == []  # type: ignore[arg-type]
    with pytest.raises(LibraryError, match="cublasLtMatmulAlgoGetHeuristic: status 7, expected 0"):
        Library(FakeLibrary((), 7), cpu).plan(key, product)  # type: ignore[arg-type]
    functions = FakeLibrary()
    functions.cublasLtMatmul.work = lambda *given: 13  # type: ignore[attr-defined]
    plan = Library(functions, cpu).plan(key, product)  # type: ignore[arg-type]
    with pytest.raises(LibraryError, match="cublasLtMatmul: status 13, expected 0"):
        plan.run(0, product)


def test_the_library_of_this_torch_s_cuda_is_sought(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    asked: list[tuple[str, int]] = []

    def refuse(name: str, mode: int) -> None:
        asked.append((name, mode))
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    beside = tmp_path / "nvidia" / "cu13" / "lib" / "libcublasLt.so.13"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert find_library() is None
    assert [name for name, _ in asked] == ["libcublasLt.so.13", str(beside), "libcublasLt.so.13"]
    assert asked[0][1] != 0  # only if it is loaded
    monkeypatch.setattr(torch.version, "cuda", None)
    assert find_library() is None
    assert len(asked) == 3

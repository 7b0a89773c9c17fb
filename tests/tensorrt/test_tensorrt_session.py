# SPDX-License-Identifier: Apache-2.0
"""Tensors bound by address, profiles, shared working memory: against a double of TensorRT's runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_library import FakeEngine, Profiles, fake_library

from alpamayo_rt import EngineError
from alpamayo_rt.tensorrt.session import Scratch, TensorRTSession

CPU = torch.device("cpu")
WIDE: Profiles = [{"x": [(1, 3), (2, 3), (4, 3)], "m": [(1,), (2,), (4,)]}]
TWO: Profiles = [*WIDE, {"x": [(5, 3), (6, 3), (8, 3)], "m": [(5,), (6,), (8,)]}]


def session_of(path: Path, profiles: Profiles = WIDE) -> tuple[TensorRTSession, FakeEngine]:
    engine = FakeEngine(path, profiles)
    return TensorRTSession(fake_library(), path, engine, {"part": "expert"}, CPU, Scratch(CPU)), engine


def feeds(size: int) -> dict[str, torch.Tensor]:
    return {"x": torch.arange(3.0 * size).view(size, 3), "m": torch.arange(size)}


def test_its_bindings_are_those_of_the_engine(small_onnx: Path) -> None:
    session, _ = session_of(small_onnx)
    assert [str(b) for b in session.inputs] == ["x float32 (?, 3)", "m int64 (?)"]
    assert [str(b) for b in session.outputs] == ["y float32 (?, 2)", "n int64 (?)"]


def test_it_reads_and_writes_where_the_tensors_lie(small_onnx: Path) -> None:
    session, _ = session_of(small_onnx)
    out = {"y": torch.full((2, 2), torch.nan)}
    results = session.run(feeds(2), out)
    expected = feeds(2)["x"] @ torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert torch.equal(out["y"], expected)
    assert results["y"] is out["y"]
    assert results["n"].tolist() == [0, -1]


def test_each_size_runs_in_the_first_profile_that_takes_it(small_onnx: Path) -> None:
    session, engine = session_of(small_onnx, TWO)
    for size in (1, 4, 5, 8, 2):
        assert session.run(feeds(size))["n"].tolist() == [-i for i in range(size)]
    assert engine.contexts == 2
    assert session.limits("x", 0) == (1, 8)


@pytest.mark.parametrize("size", [0, 9])
def test_a_size_that_no_profile_takes(small_onnx: Path, size: int) -> None:
    session, _ = session_of(small_onnx)
    with pytest.raises(
        EngineError, match=f"input x has size {size} in dimension 0, the engine was built for 1 to 4"
    ):
        session.run(feeds(size))


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("x", None, "input x was not given, expected x float32"),
        ("x", torch.zeros(2, 3, dtype=torch.float64), "input x is torch.float64 on cpu, expected x float32"),
        ("x", torch.zeros(3, 2).T, "contiguous on cpu"),
        ("x", torch.zeros(2, 4), "input x has size 4 in dimension 1, the engine was built for 3 to 3"),
        ("x", torch.zeros(2), "input x has 1 dimensions, expected 2"),
    ],
)
def test_an_input_that_does_not_fit(
    small_onnx: Path, name: str, tensor: torch.Tensor | None, said: str
) -> None:
    session, _ = session_of(small_onnx)
    given = {n: t for n, t in (feeds(2) | {name: tensor}).items() if t is not None}
    with pytest.raises(EngineError, match=said):
        session.run(given)


def test_an_output_that_does_not_fit(small_onnx: Path) -> None:
    session, _ = session_of(small_onnx)
    with pytest.raises(
        EngineError, match=r"output y is torch.float32 \(3, 2\), expected torch.float32 \(2, 2\)"
    ):
        session.run(feeds(2), {"y": torch.zeros(3, 2)})


def test_an_engine_that_does_not_run(small_onnx: Path) -> None:
    session, engine = session_of(small_onnx)
    engine.broken = True
    with pytest.raises(EngineError, match=r"model.onnx: TensorRT did not run it \(it gives no reason\)"):
        session.run(feeds(2))


def test_working_memory_is_shared_and_stays(small_onnx: Path) -> None:
    scratch = Scratch(CPU)
    for size in (4096, 65536):
        engine = FakeEngine(small_onnx, WIDE)
        engine.device_memory_size_v2 = size
        TensorRTSession(fake_library(), small_onnx, engine, {}, CPU, scratch).run(feeds(1))
    assert scratch.buffer().numel() == 65536
    assert scratch.buffer().data_ptr() == scratch.buffer().data_ptr()

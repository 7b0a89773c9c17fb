# SPDX-License-Identifier: Apache-2.0
"""TensorRT for RTX, from its packages, builds every exported part on a machine without a GPU.

An engine cannot be opened without a driver. What is compared with the contract is the built network's inputs
and outputs, as TensorRT's API gave them to the engine's description.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from situations import GOLDEN, SHIPPED

from alpamayo_rt import EngineError
from alpamayo_rt.cli.main import main
from alpamayo_rt.engine.bindings import part_bindings

pytestmark = pytest.mark.tensorrt

TARGETS = ("sm89", "sm120")
MODELS = {
    "alpamayo1_5": SHIPPED / "model" / "checkpoint",
    "alpamayo_r1": GOLDEN / "alpamayo_r1" / "model" / "checkpoint",
    "nano": Path("nano"),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float16}
Export = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    from alpamayo_rt.tensorrt.library import open_library

    try:
        open_library("tensorrt-rtx")
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    made: dict[tuple[str, ...], Path] = {}

    def exported(model: str, precision: str, contract: str, parts: str = "vision,language,expert") -> Path:
        key = (model, precision, contract, parts)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("export")
            arguments = ["--model", str(MODELS[model]), "--out", str(made[key]), "--parts", parts]
            if precision == "fp8":
                calibration = made[key] / "calibration.json"
                clips = ["--clips", "world-live:1:1", "--out", str(calibration)]
                assert main(["calibrate", "--model", str(MODELS[model]), *clips]) == 0
                arguments += ["--calibration", str(calibration)]
            assert main(["export", *arguments, "--precision", precision, "--contract", contract]) == 0
        return made[key]

    return exported


def build(folder: Path, target: str, *more: str) -> int:
    return main(["build-engine", str(folder), "--target", target, "--backend", "tensorrt-rtx", *more])


def check(folder: Path, model: str, precision: str, target: str, parts: tuple[str, ...]) -> None:
    """Each part's built network is connected as its contract says."""
    from alpamayo_rt.checkpoint import open_checkpoint

    config = open_checkpoint(str(MODELS[model])).config
    for part in parts:
        engine = folder / part / f"{target}.engine"
        described = json.loads(engine.with_name(engine.name + ".json").read_text())
        assert engine.stat().st_size == described["bytes"] > 100_000
        bindings = part_bindings(config, part, described["contract"], DTYPES[precision])
        for kind, wanted in zip(("inputs", "outputs"), bindings, strict=True):
            found = [(b["name"], b["dtype"], tuple(b["shape"])) for b in described[kind]]
            assert found == [
                (
                    b.name,
                    str(b.dtype).removeprefix("torch."),
                    tuple(-1 if isinstance(size, str) else size for size in b.shape),
                )
                for b in wanted
            ], (part, kind)
        assert described["precision"] == precision
        assert described["target"] == target
        assert set(described["profiles"][0]) == {b.name for b in bindings.inputs}


@pytest.mark.parametrize("model", MODELS)
def test_every_part_for_both_targets(export: Export, model: str) -> None:
    if model == "alpamayo_r1" and not MODELS[model].is_dir():
        pytest.skip(f"the full reference cases are not at {GOLDEN} (set ALPAMAYO_RT_GOLDEN to their folder)")
    folder = export(model, "fp16", "shared")
    for target in TARGETS:
        assert build(folder, target) == 0
        check(folder, model, "fp16", target, ("vision", "language", "expert"))


@pytest.mark.parametrize("model", MODELS)
def test_the_fused_expert_for_both_targets(export: Export, model: str) -> None:
    if model == "alpamayo_r1" and not MODELS[model].is_dir():
        pytest.skip(f"the full reference cases are not at {GOLDEN} (set ALPAMAYO_RT_GOLDEN to their folder)")
    folder = export(model, "fp16", "fused", "expert")
    for target in TARGETS:
        assert build(folder, target) == 0
        check(folder, model, "fp16", target, ("expert",))


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_other_precisions(export: Export, precision: str) -> None:
    folder = export("alpamayo1_5", precision, "shared", "expert")
    assert build(folder, "sm120") == 0
    check(folder, "alpamayo1_5", precision, "sm120", ("expert",))


def test_a_precision_that_the_target_has_not_is_refused_with_the_node(
    export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export("alpamayo1_5", "fp8", "shared", "expert")
    capsys.readouterr()
    assert build(folder, "sm86") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "model.onnx: TensorRT cannot build it: node expert." in last
    assert "needs fp8_e4m3, which the target has not" in last
    assert not list((folder / "expert").glob("*sm86*"))


def test_an_operator_that_is_refused_is_named_with_its_node(
    tmp_path: Path, small_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    model = onnx.load(str(small_onnx))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Frobnicate", "here"
    model.opset_import.append(onnx.helper.make_opsetid("here", 1))
    (tmp_path / "expert").mkdir()
    onnx.save(model, str(tmp_path / "expert" / "model.onnx"))
    assert build(tmp_path, "sm120") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "model.onnx: TensorRT's parser refuses node /minus (Frobnicate): " in last


def test_what_is_built_is_not_built_again_unless_something_changed(tmp_path: Path, small_onnx: Path) -> None:
    (tmp_path / "expert").mkdir()
    (tmp_path / "expert" / "model.onnx").write_bytes(small_onnx.read_bytes())
    engine = tmp_path / "expert" / "sm89.engine"

    def built(*more: str) -> int:
        assert build(tmp_path, "sm89", *more) == 0
        return engine.stat().st_mtime_ns

    first = built()
    assert built() == first
    other = built("--profile", "B=1:2:4")
    assert other != first
    engine.write_bytes(engine.read_bytes()[:-1])
    assert built("--profile", "B=1:2:4") not in (first, other)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, small_onnx: Path, stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from alpamayo_rt.tensorrt import build as building

    (tmp_path / "expert").mkdir()
    (tmp_path / "expert" / "model.onnx").write_bytes(small_onnx.read_bytes())
    real, calls = threading.Thread.join, []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        calls.append(timeout)
        if timeout is not None:  # the caller waits for the build: now the signal comes
            raise stop
        real(thread)

    monkeypatch.setattr(building.threading.Thread, "join", interrupted)
    try:
        status: object = build(tmp_path, "sm89")
    except SystemExit:
        status = "ended"
    assert status == (130 if stop is KeyboardInterrupt else "ended")
    assert calls[-1] is None
    assert [p.name for p in (tmp_path / "expert").iterdir()] == ["model.onnx"]

# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an ONNX file is said in one line, before anything runs."""

from __future__ import annotations

import builtins
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alpamayo_rt import EngineError, Model
from alpamayo_rt.engine.bindings import expert_bindings
from alpamayo_rt.engine.onnx_header import read_header
from alpamayo_rt.engine.onnx_session import OnnxSession
from alpamayo_rt.engine.session import check_bindings
from alpamayo_rt.engine_files import EngineFiles, find_onnx_files, open_onnx_stages

CPU = torch.device("cpu")
Change = Callable[[Any], None]


@pytest.fixture
def copied(export_1_5: Path, tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    shutil.copytree(export_1_5, tmp_path / "export")
    return tmp_path / "export"


def edited(folder: Path, change: Change, part: str = "expert") -> Path:
    import onnx

    path = folder / part / "model.onnx"
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def open_parts(folder: Path, model: Model, *parts: str, contract: str | None = None) -> None:
    paths = find_onnx_files(EngineFiles(engine_dir=str(folder)), parts)
    open_onnx_stages(paths, model.config, model.checkpoint.fingerprint(), CPU, contract=contract)


def other_opset(model: Any) -> None:
    model.opset_import[0].version = 17


def renamed_input(model: Any) -> None:
    for names in [model.graph.input, *[n.input for n in model.graph.node]]:
        for i, value in enumerate(names):
            if getattr(value, "name", value) == "prefix_length":
                if isinstance(value, str):
                    names[i] = "length"
                else:
                    value.name = "length"


def other_type(model: Any) -> None:
    for value in model.graph.output:
        if value.name == "next_action":
            value.type.tensor_type.elem_type = 11


def metadata(name: str, value: str) -> Change:
    def change(model: Any) -> None:
        next(prop for prop in model.metadata_props if prop.key == name).value = value

    return change


def no_metadata(model: Any) -> None:
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_opset, ["ONNX opset 17, expected 20"]),
        (renamed_input, ["input length int32 (1) is not part of the contract"]),
        (other_type, ["ONNX Runtime cannot open it"]),
        (metadata("part", "vision"), ["is the part vision, expected expert"]),
        (
            metadata("model_hash", "beef"),
            ["exported from checkpoint (beef)", "alpamayo-rt export --parts expert"],
        ),
        (metadata("contract", "fused"), ["attention_mask is missing"]),
        (metadata("contract", "split"), ["contract 'split', expected fused, shared, shared-loop"]),
        (no_metadata, ["does not say which part it is"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_another_file_than_it_is_taken_for(
    copied: Path, model_1_5: Model, change: Change, words: list[str]
) -> None:
    path = edited(copied, change)
    with pytest.raises(EngineError) as caught:
        open_parts(copied, model_1_5, "expert")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file(copied: Path, model_1_5: Model, keep: float) -> None:
    path = copied / "expert" / "model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(EngineError, match=r"truncated or not an ONNX file|cannot open it"):
        open_parts(copied, model_1_5, "expert")


@pytest.mark.parametrize("content", [b"hello", b"\x00" * 64, b"\xff" * 200, bytes(range(256))])
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(EngineError, match="truncated or not an ONNX file"):
        read_header(tmp_path / "model.onnx")


def test_another_contract_than_asked_for(copied: Path, model_1_5: Model) -> None:
    with pytest.raises(EngineError, match=r"--contract: fused, but .* has the contract shared"):
        open_parts(copied, model_1_5, "expert", contract="fused")


def test_without_the_package(copied: Path, model_1_5: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EngineError, match=r"pip install 'alpamayo-rt\[onnxruntime\]'"):
        open_parts(copied, model_1_5, "expert")


def test_an_unknown_provider(export_1_5: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="AbacusExecutionProvider is not part of the installed package"):
        OnnxSession(export_1_5 / "expert" / "model.onnx", CPU, "AbacusExecutionProvider")


def test_tensors_that_do_not_fit(export_1_5: Path) -> None:
    pytest.importorskip("onnxruntime")
    session = OnnxSession(export_1_5 / "vision" / "model.onnx", CPU)
    patches, grid = torch.zeros(1, 16, 1536), torch.tensor([4, 4])
    with pytest.raises(EngineError, match="input grid was not given"):
        session.run({"pixel_values": patches})
    with pytest.raises(EngineError, match=r"input pixel_values is torch\.float64"):
        session.run({"pixel_values": patches.double(), "grid": grid})
    with pytest.raises(EngineError, match=r"pixel_values is torch.float32 \(1, 16, 8\)"):
        session.run({"pixel_values": patches[..., :8].contiguous(), "grid": grid})
    with pytest.raises(EngineError, match=r"needs a buffer, no input has a size M"):
        session.run({"pixel_values": patches, "grid": grid})


def test_bindings_are_those_of_the_contract_whatever_their_order(model_1_5: Model, export_1_5: Path) -> None:
    pytest.importorskip("onnxruntime")
    session = OnnxSession(export_1_5 / "expert" / "model.onnx", CPU)
    inputs, outputs = expert_bindings(model_1_5.config, "shared", torch.float32)
    assert (session.inputs, session.outputs) == (inputs, outputs)
    check_bindings(session, inputs[::-1], outputs[::-1])
    half = expert_bindings(model_1_5.config, "shared", torch.float16)
    with pytest.raises(EngineError, match=r"input kv_prefix float32 .*, expected kv_prefix float16"):
        check_bindings(session, *half)

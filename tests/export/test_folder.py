# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from situations import SHIPPED, driving_sample

from alpamayo_rt import EngineError, InputError, Model, load, session_loading
from alpamayo_rt.checkpoint import open_checkpoint
from alpamayo_rt.engine.bindings import OPSET, PARTS, part_bindings
from alpamayo_rt.export import folder as folder_module
from alpamayo_rt.export.folder import is_export_folder, open_export, write_model
from alpamayo_rt.export.run import export_model

CHECKPOINT = str(SHIPPED / "model" / "checkpoint")
SETTINGS = {"num_candidates": 3, "max_generate_length": 8, "num_diffusion_steps": 4}


def close(ours: Model, theirs: Model, **settings: object) -> None:
    """The same tokens and, within float32, the same trajectories."""
    sample = driving_sample(navigation="Turn left in 40m")
    mine, expected = (m.infer(sample, **(SETTINGS | settings)) for m in (ours, theirs))
    assert mine.generated_token_ids == expected.generated_token_ids
    torch.testing.assert_close(mine.trajectories, expected.trajectories, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", PARTS)
def test_what_a_file_says(model_1_5: Model, export_1_5: Path, part: str) -> None:
    import onnx

    path = export_1_5 / part / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(path, full_check=True)
    wanted = part_bindings(model_1_5.config, part, "shared", torch.float32)
    for values, bindings in ((model.graph.input, wanted.inputs), (model.graph.output, wanted.outputs)):
        assert [v.name for v in values] == [b.name for b in bindings]
        shapes = [tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values]
        assert shapes == [b.shape for b in bindings]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    said = {prop.key: prop.value for prop in model.metadata_props}
    assert said["part"] == part
    assert said["model_hash"] == model_1_5.checkpoint.fingerprint()
    names = {w.name for w in model.graph.initializer}
    ours = {n for n, _ in model_1_5.engine.network.named_parameters() if n.startswith(f"{part}.")}
    assert ours <= names
    assert not {n.op_type for n in model.graph.node} & {"If", "Loop", "Scan", "NonZero", "ScatterND"}
    # Nothing of the machine that traced it.
    assert b".py" not in path.read_bytes()


def test_the_folder_is_a_model_of_its_own(model_1_5: Model, export_1_5: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert is_export_folder(export_1_5)
    assert open_export(export_1_5).fingerprint() == model_1_5.checkpoint.fingerprint()
    ours = load(None, "onnxruntime", engine_dir=str(export_1_5))
    assert (ours.engine.name, ours.engine.precision) == ("onnxruntime", "fp32")
    assert ours.provenance() == model_1_5.provenance()
    close(ours, model_1_5)
    close(ours, model_1_5, multi_seq=True, temperature=1.0)
    close(ours, model_1_5, guidance_weight=1.5)


@pytest.mark.parametrize(
    "flags",
    [
        {"expert_engine": "expert"},
        {"expert_engine": "expert/model.onnx", "multimodal_engine_dir": "vision"},
        {"multimodal_engine_dir": "."},
    ],
    ids=str,
)
def test_parts_can_be_mixed_with_eager_ones(model_1_5: Model, export_1_5: Path, flags: dict[str, str]) -> None:
    pytest.importorskip("onnxruntime")
    ours = load(CHECKPOINT, device="cpu", **{name: str(export_1_5 / place) for name, place in flags.items()})
    sessions = [stage is not None for stage in ours.engine.stages]
    assert sessions == ["multimodal_engine_dir" in flags, False, "expert_engine" in flags]
    close(ours, model_1_5)


def test_a_language_model_beside_an_eager_expert(model_1_5: Model, export_1_5: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(export_1_5 / "language", tmp_path / "language")
    close(load(CHECKPOINT, device="cpu", engine_dir=str(tmp_path)), model_1_5)
    with pytest.raises(EngineError, match="expected one precision for both"):
        load(CHECKPOINT, precision="bf16", device="cpu", engine_dir=str(tmp_path))


def test_a_folder_without_a_part_needs_a_model(export_1_5: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(export_1_5, tmp_path / "e", ignore=lambda folder, names: {"vision"} & set(names))
    with pytest.raises(EngineError, match="has no vision, expected them exported too, or a --model"):
        load(None, "onnxruntime", engine_dir=str(tmp_path / "e"))
    with pytest.raises(EngineError, match="is the part expert, expected language"):
        load(CHECKPOINT, engine_dir=str(tmp_path / "e" / "expert"))
    with pytest.raises(EngineError, match=r"--engine-dir: .* has no language/model.onnx"):
        load(CHECKPOINT, engine_dir=str(tmp_path))


def test_without_flags_the_export_is_made_once(
    export_1_5: Path, model_1_5: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def instead(checkpoint: object, out: Path, parts: list[str], precision: str, contract: str) -> None:
        made.append((parts, precision, contract))
        shutil.copytree(export_1_5, out)

    monkeypatch.setattr(session_loading, "export_model", instead)
    lines: list[str] = []
    for _ in range(2):
        ours = load(CHECKPOINT, "onnxruntime", device="cpu", progress=lines.append)
    assert made == [(["vision", "language", "expert"], "fp32", "shared")]
    assert [line for line in lines if line.startswith("exporting vision, language, expert to")] == lines
    close(ours, model_1_5)


def test_large_weights_get_a_file_of_their_own(
    export_1_5: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    import onnx_ir as ir

    monkeypatch.setattr(folder_module, "EXTERNAL_FROM", 1000)
    write_model(tmp_path / "vision", ir.load(export_1_5 / "vision" / "model.onnx"), {"part": "vision"})
    files = {p.name: p.stat().st_size for p in (tmp_path / "vision").iterdir()}
    assert files.keys() == {"model.onnx", "model.onnx.data"}
    assert files["model.onnx"] < files["model.onnx.data"] / 2
    onnxruntime.InferenceSession(tmp_path / "vision" / "model.onnx")
    # Written again without one, the old file is not left to be taken for its weights.
    monkeypatch.undo()
    write_model(tmp_path / "vision", ir.load(export_1_5 / "vision" / "model.onnx"), {"part": "vision"})
    assert [p.name for p in (tmp_path / "vision").iterdir()] == ["model.onnx"]


def test_what_the_checker_refuses_leaves_the_old_file(export_1_5: Path, tmp_path: Path) -> None:
    import onnx_ir as ir

    (tmp_path / "model.onnx").write_bytes(b"old")
    model = ir.load(export_1_5 / "vision" / "model.onnx")
    next(node for node in model.graph if node.op_type == "Softmax").op_type = "Hardmaxi"
    with pytest.raises(EngineError, match="the ONNX checker refuses vision"):
        write_model(tmp_path, model, {"part": "vision"})
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("model.onnx", b"old")]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"parts": ["wheels"]}, InputError, "parts: wheels, expected some of vision, language, expert"),
        ({"precision": "fp64"}, EngineError, "precision: 'fp64', expected fp32, fp16, bf16, fp8"),
        ({"contract": "split"}, EngineError, "contract: 'split', expected fused, shared, shared-loop"),
        ({"steps": 4}, InputError, "steps: 4, expected .* the contract shared-loop"),
        ({"precision": "fp8"}, InputError, "calibration: missing"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_work(
    tmp_path: Path, arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        export_model(open_checkpoint(CHECKPOINT), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alpamayo_rt.export.trace.find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"onnx and onnxscript not installed, run: pip install 'alpamayo-rt\[export\]'"
    ):
        export_model(open_checkpoint(CHECKPOINT), tmp_path / "out")


def test_statistics_in_the_config_are_those_that_the_network_uses(export_1_5: Path, model_1_5: Model) -> None:
    space = json.loads((export_1_5 / "config.json").read_text())["action_space_cfg"]
    for name, value in model_1_5.engine.network.action_space.named_buffers():
        assert space[name] == float(value)

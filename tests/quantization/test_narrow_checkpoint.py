# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with narrowed weights: what loads, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import copied, edit_json, edit_tensors, shard
from safetensors.torch import load_file
from situations import SHIPPED, driving_sample

from alpamayo_rt import EngineError, Model, ModelError, load
from alpamayo_rt.checkpoint import load_network, open_checkpoint
from alpamayo_rt.cli.main import main
from alpamayo_rt.loading import choose_plan
from alpamayo_rt.quantization.calibration import calibrate
from alpamayo_rt.quantization.linear import Fp8Linear, QuantizedLinear

FOLDER = str(SHIPPED / "model" / "checkpoint")


def tensors_of(model: Model) -> dict[str, torch.Tensor]:
    network = model.engine.network  # type: ignore[attr-defined]
    return dict(network.named_parameters()) | dict(network.named_buffers())


def assert_same(ours: Model, theirs: Model) -> None:
    a, b = tensors_of(ours), tensors_of(theirs)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype, name
        assert torch.equal(tensor.view(torch.uint8) if tensor.dim() else tensor,
                           b[name].view(torch.uint8) if tensor.dim() else b[name]), name  # fmt: skip


def narrowed(out: Path, precision: str = "fp8", *more: str, model: str = FOLDER) -> Path:
    assert main(["quantize", "--model", model, "--precision", precision, "--out", str(out), *more]) == 0
    return out


@pytest.mark.parametrize("precision", ["fp8", "int4"])
def test_a_saved_checkpoint_is_what_loading_gives(precision: str, tmp_path: Path) -> None:
    folder = narrowed(tmp_path / "out", precision)
    direct, saved = load(FOLDER, "eager", precision, "cpu"), load(str(folder), "eager", "auto", "cpu")
    assert saved.engine.precision == direct.engine.precision == precision
    assert_same(direct, saved)
    sample = driving_sample()
    one, two = (model.infer(sample, num_candidates=2, max_generate_length=8) for model in (direct, saved))
    assert torch.equal(one.trajectories, two.trajectories)
    assert one.generated_token_ids == two.generated_token_ids
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_shards_keep_their_names_and_other_parts_can_be_narrowed(tmp_path: Path) -> None:
    source = copied(tmp_path)
    shard(source)
    folder = narrowed(tmp_path / "out", "int4", "--parts", "language,vision,expert", model=str(source))
    names = {p.name for p in source.glob("*.safetensors")}
    assert {p.name for p in folder.glob("*.safetensors")} == names
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    stored = [tensor for name in names for tensor in load_file(folder / name).values()]
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in stored)
    model = load(str(folder), device="cpu")
    network = model.engine.network  # type: ignore[attr-defined]
    parts = {n.split(".")[0] for n, m in network.named_modules() if isinstance(m, QuantizedLinear)}
    assert parts == {"language", "vision", "expert"}
    assert model.infer(driving_sample(), num_candidates=1, max_generate_length=4).trajectories is not None


def test_a_calibration_gives_fixed_scales(model_1_5: Model, tmp_path: Path) -> None:
    made = calibrate(model_1_5, [("one", driving_sample())], ("language",))
    made.save(tmp_path / "c.json")
    folder = narrowed(tmp_path / "out", "fp8", "--calibration", str(tmp_path / "c.json"))
    model = load(str(folder), device="cpu")
    network = model.engine.network  # type: ignore[attr-defined]
    layers = {n: m for n, m in network.named_modules() if isinstance(m, Fp8Linear)}
    assert set(layers) == set(made.activation_amax)
    for name, layer in layers.items():
        assert float(layer.input_scale) == pytest.approx(made.activation_amax[name] / 448, rel=1e-6)
    with pytest.raises(Exception, match="precision: fp8, expected fp32, fp16 or bf16 for a calibration"):
        calibrate(model, [("one", driving_sample())])


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrowed(tmp_path_factory.mktemp("narrow") / "fp8")


@pytest.fixture
def folder(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "fp8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2, expected 1"),
        ({"version": True}, "version True, expected 1"),
        ({"precision": "fp4"}, "precision 'fp4', expected fp8 or int4"),
        ({"precision": "int4", "activations": None, "group": 128}, r"missing: .*weight_zero"),
        ({"parts": ["wheels"]}, r"parts \['wheels'\], expected some of"),
        ({"parts": 3}, "parts 3, expected some of"),
        ({"parts": ["expert"]}, r"unexpected: .*weight_scale"),
        ({"activations": "static"}, r"missing: .*input_scale"),
        ({"activations": "maybe"}, "activations 'maybe', expected token or static"),
        ({"group": 64}, "group 64, expected 128 for int4 and null for fp8"),
        ({"source_hash": 1}, "source_hash 1, expected"),
        ({"color": "red"}, "color missing or unknown"),
    ],
)
def test_another_description_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    edit_json(folder / "quantization.json", lambda value: value.update(change))
    with pytest.raises(ModelError, match=message):
        load(str(folder), device="cpu")


NAME = "vlm.lm_head"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{NAME}.weight_scale"), f"missing: {NAME}.weight_scale"),
        (lambda t: t.update({f"{NAME}.weight": t[f"{NAME}.weight"].float()}), f"type .*{NAME}.weight F32"),
        (lambda t: t.update({f"{NAME}.weight_scale": t[f"{NAME}.weight_scale"].half()}), "weight_scale F16"),
        (lambda t: t.update({f"{NAME}.weight_scale": t[f"{NAME}.weight_scale"].flatten()}), "misshapen"),
        (
            lambda t: t[f"{NAME}.weight_scale"].fill_(0),
            r"lm_head\.weight_scale: holds a value that is no scale",
        ),
        (lambda t: t[f"{NAME}.weight_scale"].fill_(torch.nan), "holds a value that is no scale"),
    ],
)
def test_other_tensors_are_refused(folder: Path, change: Any, message: str) -> None:
    edit_tensors(folder, change)
    with pytest.raises(ModelError, match=message):
        load(str(folder), device="cpu")


@pytest.mark.parametrize(("source", "precision"), [("saved", "auto"), ("floating", "fp8")])
def test_the_expert_alone_needs_no_narrow_weights(once: Path, source: str, precision: str) -> None:
    parts = ("expert.", "action_space.")
    model = load(str(once) if source == "saved" else FOLDER, "eager", precision, "cpu", only=parts)
    network = model.engine.network  # type: ignore[attr-defined]
    assert {p.device.type for p in network.expert.parameters()} == {"cpu"}
    assert {p.device.type for p in network.language.parameters()} == {"meta"}


def test_without_its_description_it_is_no_checkpoint(folder: Path) -> None:
    (folder / "quantization.json").unlink()
    with pytest.raises(ModelError, match="weight_scale"):
        load(str(folder), device="cpu")


def test_another_precision_or_purpose_is_refused(
    once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError, match="precision: bf16, but the checkpoint holds fp8 weights"):
        load(str(once), precision="bf16", device="cpu")
    # What exports and trains takes weights this way.
    with pytest.raises(ModelError, match="holds fp8 weights, expected a checkpoint in a floating type"):
        load_network(open_checkpoint(str(once)), torch.device("cpu"), torch.float32)
    command = ["quantize", "--model", str(once), "--precision", "fp8", "--out", str(tmp_path / "again")]
    assert main(command) == 2
    assert "holds fp8 weights already" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--precision", "fp4"], "precision: 'fp4', expected fp8 or int4"),
        (["--precision", "fp8", "--parts", "wheels"], "parts: wheels, expected some of"),
        (["--precision", "int4", "--calibration", "c.json"], "--calibration: goes with precision fp8"),
        (["--precision", "fp8", "--calibration", "/no/c.json"], "missing, expected a calibration file"),
        (["--precision", "fp8", "--out", FOLDER], "is not empty, expected a new or empty folder"),
        (["--precision", "fp8", "--out", f"{FOLDER}/config.json"], "is a file, expected a new"),
        (["--precision", "fp8", "--out", "/no/such/place"], "is no folder that can be written to"),
    ],
)
def test_commands_that_cannot_be_done(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in more else ["--out", str(tmp_path / "out")]
    assert main(["quantize", "--model", FOLDER, *out, *more]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_ended_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alpamayo_rt.quantization.saving.save_file", interrupted)
    assert main(["quantize", "--model", FOLDER, "--precision", "fp8", "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_cleaned_up_and_files_can_be_read_by_others(tmp_path: Path) -> None:
    left, alive = tmp_path / ".out.999999999.tmp", tmp_path / f".out.{os.getppid()}.tmp"
    for folder in (left, alive):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
    out = narrowed(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [alive.name, "out"]
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {path.stat().st_mode for path in out.rglob("*") if path.is_file()} == {usual}


def test_inspect_tells_the_memory_of_narrow_weights(once: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", FOLDER, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(once), "--json"]) == 0
    narrow = json.loads(capsys.readouterr().out)
    assert list(plain["memory_gib"]) == ["fp32", "fp16", "bf16", "fp8", "int4"]
    assert main(["inspect", "nano", "--json"]) == 0
    nano = json.loads(capsys.readouterr().out)
    weights = {name: sizes["weights"] for name, sizes in nano["memory_gib"].items()}
    assert weights["int4"] < weights["fp8"] < weights["bf16"] < weights["fp32"]
    assert narrow["memory_gib"] == {"fp8": plain["memory_gib"]["fp8"]}
    assert narrow["parameters"] == plain["parameters"]
    assert narrow["narrowed"] == {"precision": "fp8", "parts": ["language"], "static": False}
    assert main(["inspect", str(once)]) == 0
    assert "fp8 weights in language" in capsys.readouterr().out


def test_a_gpu_without_fp8_products_runs_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "An Old One")
    lines: list[str] = []
    gpu, checkpoint = torch.device("cuda:0"), open_checkpoint(FOLDER)
    assert choose_plan(checkpoint, "fp8", gpu, lines.append) == ("bf16", None)
    assert len(lines) == 1
    assert "An Old One has no fp8 products" in lines[0]
    name, plan = choose_plan(checkpoint, "int4", gpu, lines.append)
    assert (name, plan is not None, len(lines)) == ("int4", True, 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    assert choose_plan(checkpoint, "fp8", gpu, lines.append)[0] == "fp8"
    choose_plan(checkpoint, "fp8", torch.device("cpu"), lines.append)
    assert len(lines) == 2
    assert "fp8 on cpu runs in plain torch, all but the narrowed weights in fp32" in lines[1]

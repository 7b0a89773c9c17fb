# SPDX-License-Identifier: Apache-2.0
"""`--engine tensorrt` from the flags to the trajectories, over a double of TensorRT that executes the ONNX."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fake_build import fake_build, pretend
from situations import SHIPPED, driving_sample

from alpamayo_rt import EngineError, InputError, Model, load
from alpamayo_rt.checkpoint import open_checkpoint
from alpamayo_rt.cli.main import main
from alpamayo_rt.export.run import export_model
from alpamayo_rt.tensorrt.profiles import Range
from alpamayo_rt.tensorrt.sidecar import sidecar_path

MODEL = str(SHIPPED / "model" / "checkpoint")
SETTINGS = {"num_candidates": 3, "max_generate_length": 6, "seed": 1}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("export")
    export_model(open_checkpoint(MODEL), folder, ["expert"], "fp32", "shared")
    return folder


@pytest.fixture
def engines(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_build(exported, "expert", MODEL, torch.float32)
    pretend(monkeypatch)
    return exported


def opened(folder: Path, **more: str) -> Model:
    return load(MODEL, more.pop("engine", "tensorrt"), "fp32", "cpu", expert_engine=str(folder), **more)


@pytest.mark.parametrize("multi_seq", [False, True])
def test_an_experts_engine_behind_the_eager_language_model(
    engines: Path, model_1_5: Model, multi_seq: bool
) -> None:
    model = opened(engines)
    ours = model.infer(driving_sample(), multi_seq=multi_seq, **SETTINGS)
    theirs = model_1_5.infer(driving_sample(), multi_seq=multi_seq, **SETTINGS)
    assert ours.generated_token_ids == theirs.generated_token_ids
    torch.testing.assert_close(ours.trajectories, theirs.trajectories, rtol=1e-4, atol=1e-3)
    assert (model.engine.name, model.engine.precision) == ("tensorrt", "fp32")


def test_guidance(engines: Path, model_1_5: Model) -> None:
    sample = driving_sample(navigation="Turn left in 40m")
    ours, theirs = (m.infer(sample, guidance_weight=1.5, **SETTINGS) for m in (opened(engines), model_1_5))
    torch.testing.assert_close(ours.trajectories, theirs.trajectories, rtol=1e-4, atol=1e-3)


def test_the_cache_is_bound_without_a_copy(engines: Path) -> None:
    model = opened(engines)
    result = model.infer(driving_sample(), keep_trace=True, **SETTINGS)
    cache = result.trace.hand_off.cache  # type: ignore[union-attr]
    assert cache.keys.shape[2] % 64 == 0
    runner = model.engine.stages.expert  # type: ignore[attr-defined]
    fed = runner.session._contexts[0].addresses["kv_prefix"]
    assert fed == cache.keys.data_ptr()


def test_auto_knows_engines_from_exports(engines: Path) -> None:
    assert opened(engines, engine="auto").engine.name == "tensorrt"
    assert opened(engines / "expert" / "sm120.engine", engine="auto").engine.name == "tensorrt"
    assert opened(engines / "expert" / "model.onnx", engine="auto").engine.name == "onnxruntime"


def test_a_request_beyond_the_profile_fails_and_the_next_does_not(engines: Path) -> None:
    fake_build(engines, "expert", MODEL, torch.float32, {"B": Range(1, 2, 2)})
    model = opened(engines)
    with pytest.raises(InputError, match=r"3 candidates, .*sm120.engine was built for at most 2 \(B\)"):
        model.infer(driving_sample(), **SETTINGS)
    assert len(model.infer(driving_sample(), **(SETTINGS | {"num_candidates": 2})).trajectories) == 2  # type: ignore[arg-type]


def test_on_the_command_line_such_a_request_ends_in_status_1(engines: Path, tmp_path: Path) -> None:
    fake_build(engines, "expert", MODEL, torch.float32, {"B": Range(1, 2, 2)})
    out = tmp_path / "out.json"
    arguments = [
        "infer", "--model", MODEL, "--engine", "tensorrt", "--device", "cpu", "--precision", "fp32",
        "--expertEngine", str(engines), "--clip", "world-live:1:1", "--max-generate-length", "4",
        "--output-file", str(out),
    ]  # fmt: skip
    assert main([*arguments, "--num-candidates", "3"]) == 1
    (response,) = json.loads(out.read_text())["responses"]
    assert response["status"] == "error"
    assert "3 candidates" in response["error"]
    assert "at most 2 (B)" in response["error"]
    assert main([*arguments, "--num-candidates", "2"]) == 0
    assert json.loads(out.read_text())["engine"] == "tensorrt"


def test_another_contract_than_is_wanted(engines: Path) -> None:
    with pytest.raises(EngineError, match=r"contract: fused, but .*sm120.engine has the contract shared"):
        opened(engines, contract="fused")


def test_an_engine_of_another_model(engines: Path, golden: Path) -> None:
    other = str(golden / "alpamayo_r1" / "model" / "checkpoint")
    with pytest.raises(
        EngineError, match=r"built from model checkpoint \(\w+\), the model is checkpoint \(\w+\)"
    ):
        load(other, "tensorrt", "fp32", "cpu", expert_engine=str(engines))


def test_an_engine_that_its_description_does_not_fit(engines: Path) -> None:
    path = sidecar_path(engines / "expert" / "sm120.engine")
    path.write_text(
        path.read_text().replace('"noisy_action", "dtype": "float32"', '"noisy_action", "dtype": "float16"')
    )
    with pytest.raises(
        EngineError, match=r"input noisy_action is .*float32.* in the engine and .*float16.* in sm120"
    ):
        opened(engines)


def test_without_a_gpu_it_says_what_runs_there(exported: Path) -> None:
    with pytest.raises(
        EngineError, match="tensorrt runs on an NVIDIA GPU, the device is cpu; expected --device cuda"
    ):
        opened(exported)


def test_without_an_engine_it_says_what_to_name() -> None:
    with pytest.raises(EngineError, match="expected --engine-dir, --multimodal-engine-dir or --expert-engine"):
        load(MODEL, "tensorrt", "fp32", "cpu")


def test_without_any_tensorrt(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alpamayo_rt.tensorrt import stages

    monkeypatch.undo()
    monkeypatch.setattr(stages, "gpu_target", lambda device: "sm120")
    monkeypatch.setattr(stages, "installed_version", lambda backend: None)
    with pytest.raises(EngineError, match="tensorrt-rtx, which built these engines, is not installed here"):
        opened(engines)

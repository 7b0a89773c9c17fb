# SPDX-License-Identifier: Apache-2.0
"""Exported parts pass the recorded cases in float32 with the eager engine's bounds, whatever the contract."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from situations import CASES, DRIVING_CASES, SHIPPED

from alpamayo_rt import Model, load
from alpamayo_rt.cli.main import main
from alpamayo_rt.demo.live import live_clip
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.checks import check_case
from alpamayo_rt.verify.rows import Row

DRIVING_ROWS, OTHER_ROWS = 80, 5


def failures(rows: list[Row]) -> list[str]:
    return [f"{r.quantity} ({r.source}): {r.error:.3g} > {r.bound:.3g}" for r in rows if not r.passed]


@pytest.fixture(scope="module")
def sessions(export_1_5: Path) -> Model:
    pytest.importorskip("onnxruntime")
    return load(None, "onnxruntime", device="cpu", engine_dir=str(export_1_5))


@pytest.mark.parametrize("name", ["nav_cfg", "vqa"])
def test_shipped_case_passes(name: str, sessions: Model) -> None:
    rows = check_case(sessions, Case(SHIPPED / f"{name}.npz"))
    assert failures(rows) == []
    assert len(rows) >= (DRIVING_ROWS if name == "nav_cfg" else OTHER_ROWS)


def test_a_dump_is_replayed_by_the_experts_file_alone(
    export_1_5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    folder, prepared = str(SHIPPED / "model" / "checkpoint"), str(SHIPPED / "nav_cfg.npz")
    quick = [
        "--num-candidates",
        "2",
        "--num-diffusion-steps",
        "2",
        "--max-generate-length",
        "4",
        "--device",
        "cpu",
    ]
    made = main(["infer", "--model", folder, "--prepared", prepared, "--dump-kv-cache", str(tmp_path), *quick])
    assert made == 0
    dump = str(tmp_path / "nav_cfg.safetensors")
    capsys.readouterr()
    expert = str(export_1_5 / "expert")
    assert main(["replay", dump, "--model", folder, "--device", "cpu", "--expert-engine", expert]) == 0
    assert re.search(r"nav_cfg\S+ +2 +2 .*pass", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("contract", ["fused", "shared"])
@pytest.mark.parametrize("family", ["alpamayo1_5", "alpamayo_r1", "alpamayo2_super"])
def test_every_recorded_case_passes(
    family: str, contract: str, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    cases = [str(golden / family / f"{name}.npz") for of, name in CASES if of == family]
    checkpoint = str(golden / family / "model" / "checkpoint")
    flags = ["--engine", "onnxruntime", "--contract", contract, "--device", "cpu"]
    assert main(["verify", "--model", checkpoint, *flags, *cases]) == 0
    said = capsys.readouterr().out
    compared, over = map(int, re.search(r"(\d+) comparisons in \d+ case\(s\), (\d+) over", said).groups())
    assert over == 0
    assert compared >= DRIVING_ROWS * sum(name in DRIVING_CASES for of, name in CASES if of == family)


@pytest.mark.slow
def test_all_steps_inside_give_the_recorded_actions_and_refuse_guidance(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = golden / "alpamayo1_5"
    flags = ["--model", str(folder / "model" / "checkpoint"), "--engine", "onnxruntime", "--device", "cpu"]
    flags += ["--contract", "shared-loop"]
    assert main(["verify", *flags, *(str(folder / f"{n}.npz") for n in ("greedy6", "multiseq4"))]) == 0
    assert re.search(r"greedy6 +action +fed .*pass", capsys.readouterr().out)
    assert main(["verify", *flags, str(folder / "nav_cfg.npz")]) == 1
    assert "runs all steps inside (shared-loop) without it" in capsys.readouterr().out


@pytest.mark.slow
def test_nano_drives_as_the_eager_engine_does() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    ours, eager = load("nano", "onnxruntime", device="cpu"), load("nano", "eager", device="cpu")
    for number in (0, 1, 2, 3):
        sample, _ = live_clip(f"world-live:61:{number}").read(torch.device("cpu"))
        mine, theirs = (m.infer(sample, num_candidates=6, seed=number) for m in (ours, eager))
        assert mine.reasoning == theirs.reasoning
        assert mine.generated_token_ids == theirs.generated_token_ids
        torch.testing.assert_close(mine.trajectories, theirs.trajectories, rtol=1e-3, atol=1e-2)

# SPDX-License-Identifier: Apache-2.0
"""Vision, language model and expert as engines, without a checkpoint, over the double of TensorRT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from situations import SHIPPED, driving_sample

from alpamayo_rt import InputError, Model, load
from alpamayo_rt.checkpoint import open_checkpoint
from alpamayo_rt.tensorrt.profiles import Range

pytestmark = pytest.mark.tensorrt

MODEL = str(SHIPPED / "model" / "checkpoint")
SETTINGS = {"num_candidates": 3, "max_generate_length": 6, "seed": 1}
PARTS = ("vision", "language", "expert")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from alpamayo_rt.export.run import export_model

    folder = tmp_path_factory.mktemp("export")
    export_model(open_checkpoint(MODEL), folder, PARTS, "fp32", "fused")
    return folder


def engines(folder: Path, monkeypatch: pytest.MonkeyPatch, ranges: dict[str, Range]) -> Model:
    from fake_build import fake_build, pretend

    for part in PARTS:
        fake_build(folder, part, MODEL, torch.float32, ranges)
    pretend(monkeypatch)
    return load(None, "tensorrt", "fp32", "cpu", engine_dir=str(folder))


@pytest.mark.parametrize("multi_seq", [False, True])
def test_all_parts(exported: Path, model_1_5: Model, multi_seq: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = engines(exported, monkeypatch, {})
    ours = model.infer(driving_sample(), multi_seq=multi_seq, **SETTINGS)
    theirs = model_1_5.infer(driving_sample(), multi_seq=multi_seq, **SETTINGS)
    assert ours.generated_token_ids == theirs.generated_token_ids
    torch.testing.assert_close(ours.trajectories, theirs.trajectories, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"I": Range(1, 1, 1)}, r"2 images of one size, .* at most 1 \(I\)"),
        ({"n": Range(4, 8, 8)}, r"\d+ patches an image, .* at most 8 \(n\)"),
        ({"N": Range(1, 8, 16)}, r"\d+ prompt tokens, .* at most 16 \(N\)"),
        ({"S": Range(1, 64, 64)}, r"\d+ cached positions, .* at most 64 \(S\)"),
    ],
)
def test_what_exceeds_a_profile_is_refused_before_it_runs(
    exported: Path, ranges: dict[str, Range], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engines(exported, monkeypatch, ranges)
    with pytest.raises(InputError, match=said):
        model.infer(driving_sample(), **SETTINGS)

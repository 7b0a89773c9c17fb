# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from situations import SHIPPED

import alpamayo_rt
from alpamayo_rt import EngineError, load

FOLDER = str(SHIPPED / "model" / "checkpoint")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "magic"}, "engine: 'magic', expected one of auto, eager"),
        ({"precision": "fp64"}, "precision: 'fp64', expected auto, fp32, fp16, bf16, fp8, int4"),
        ({"device": "toaster"}, "device: 'toaster', expected auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device: 'meta' is not supported"),
        ({"device": f"cuda:{torch.cuda.device_count()}"}, r"device\(s\) are here"),
    ],
)
def test_what_is_not_there_is_refused_before_the_model_is_opened(
    arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        load("/no/such/folder", **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto chooses the GPU")
def test_auto_without_a_gpu_is_float32_on_the_cpu() -> None:
    lines: list[str] = []
    model = load(FOLDER, progress=lines.append)
    assert (model.engine.name, model.engine.precision, model.engine.device.type) == ("eager", "fp32", "cpu")
    assert lines == ["loading model.safetensors (1 of 1)"]


def test_public_names() -> None:
    assert sorted(alpamayo_rt.__all__) == [
        "AlpamayoError", "DatasetError", "EngineError", "InputError",
        "Model", "ModelError", "Result", "Sample", "load",
    ]  # fmt: skip
    assert all(hasattr(alpamayo_rt, name) for name in alpamayo_rt.__all__)
    assert issubclass(alpamayo_rt.InputError, ValueError)

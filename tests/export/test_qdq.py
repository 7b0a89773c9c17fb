# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graphs import CPU, distance, session, small_network
from torch import nn

from alpamayo_rt import EngineError, Model
from alpamayo_rt.engine.onnx_session import OnnxSession
from alpamayo_rt.export.folder import write_model
from alpamayo_rt.export.qdq import quantize
from alpamayo_rt.model.network import Network
from alpamayo_rt.quantization.calibration import Calibration

ir = pytest.importorskip("onnx_ir")


@pytest.fixture(scope="module")
def network(model_1_5: Model) -> Network:
    return small_network(model_1_5.config, torch.float16)[0]


@pytest.fixture(scope="module")
def half(model_1_5: Model, network: Network, tmp_path_factory: pytest.TempPathFactory) -> OnnxSession:
    config = small_network(model_1_5.config)[1]
    return session(tmp_path_factory.mktemp("half"), network, config, "vision", "fp16")


def inputs() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 16, 1536), "grid": torch.tensor([4, 4])}


def run(session: OnnxSession, feeds: dict[str, torch.Tensor]) -> torch.Tensor:
    out = {b.name: torch.empty(8, b.shape[1], dtype=b.dtype) for b in session.outputs}
    return session.run(feeds, out)["image_embeds"]


def test_measured_products_run_in_fp8_and_the_others_do_not(
    network: Network, half: OnnxSession, tmp_path: Path
) -> None:
    layers = {
        f"vision.{n}": m
        for n, m in network.vision.named_modules()
        if isinstance(m, nn.Linear) and "blocks" in n
    }
    amax = dict.fromkeys(layers, 12.0)
    model = ir.load(half.path)
    assert quantize(model, "vision", Calibration("hash", ("clip",), amax | {"language.lm_head": 1.0})) == len(
        layers
    )
    write_model(tmp_path, model, {"part": "vision", "precision": "fp8"})
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("QuantizeLinear") == len(layers)
    assert kinds.count("DequantizeLinear") == 2 * len(layers)
    # The half-precision weights are gone: one byte a value is left, with a scale a row.
    for name, layer in layers.items():
        assert f"{name}.weight" not in model.graph.initializers
        weight, scale = (model.graph.initializers[f"{name}.weight_{s}"].const_value for s in ("fp8", "scale"))
        assert weight is not None
        assert scale is not None
        assert weight.dtype == ir.DataType.FLOAT8E4M3FN
        restored = torch.tensor(weight.numpy().astype("float32")) * torch.tensor(scale.numpy()).float()[:, None]
        assert distance(restored, layer.weight.float()) < 0.03
    feeds = inputs()
    ours, theirs = run(OnnxSession(tmp_path / "model.onnx", CPU), feeds), run(half, feeds)
    assert 1e-4 < distance(ours, theirs) < 0.1


def test_activations_beyond_what_was_measured_are_clipped(half: OnnxSession, tmp_path: Path) -> None:
    feeds = inputs()
    errors = []
    for amax in (12.0, 1e-3):
        model = ir.load(half.path)
        quantize(model, "vision", Calibration("hash", ("clip",), {"vision.blocks.0.mlp.linear_fc1": amax}))
        write_model(tmp_path, model, {"part": "vision", "precision": "fp8"})
        errors.append(distance(run(OnnxSession(tmp_path / "model.onnx", CPU), feeds), run(half, feeds)))
    assert errors[1] > 4 * errors[0]


def test_a_calibration_of_another_part(half: OnnxSession) -> None:
    with pytest.raises(EngineError, match="measured no linear layer of the vision"):
        quantize(ir.load(half.path), "vision", Calibration("hash", (), {"language.lm_head": 1.0}))

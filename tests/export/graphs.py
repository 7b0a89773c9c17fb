# SPDX-License-Identifier: Apache-2.0
"""Small parts traced to ONNX and run, beside the modules that they came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.onnx_session import OnnxSession
from alpamayo_rt.export.folder import write_model
from alpamayo_rt.export.run import export_part
from alpamayo_rt.model.network import Network

CPU = torch.device("cpu")


def small_network(config: ModelConfig, dtype: torch.dtype = torch.float32) -> tuple[Network, ModelConfig]:
    """One layer a part with weights large enough that everything matters, and its config."""
    small = replace(
        config,
        language=replace(config.language, num_layers=1),
        expert=replace(config.expert, num_layers=1),
        vision=replace(config.vision, depth=1, deepstack_layers=(0,)),
    )
    torch.manual_seed(0)
    network = Network(small)
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1)
    network.requires_grad_(False).eval()
    statistics = {name: b.clone() for name, b in network.named_buffers()}
    network.to(dtype)
    for name, buffer in statistics.items():  # they stay float32, as in a loaded network
        owner, _, leaf = name.rpartition(".")
        network.get_submodule(owner).register_buffer(leaf, buffer)
    return network, small


def session(
    folder: Path,
    network: Network,
    config: ModelConfig,
    part: str,
    precision: str = "fp32",
    contract: str = "shared",
) -> OnnxSession:
    """Export a part and open it."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model, metadata = export_part(network, config, part, precision, contract)
    write_model(folder, model, metadata)
    return OnnxSession(folder / "model.onnx", CPU)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative L2."""
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())

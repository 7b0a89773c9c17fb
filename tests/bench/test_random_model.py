# SPDX-License-Identifier: Apache-2.0
"""Networks of random weights: finite at any depth, the same again, whole or layer by layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alpamayo_rt import Model
from alpamayo_rt.bench.check import observe
from alpamayo_rt.bench.random_model import build_network, network_bytes, streamed_network
from alpamayo_rt.bench.weights import CheckpointWeights, RandomWeights
from alpamayo_rt.bench.workloads import Request
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.model.network import Network
from alpamayo_rt.quantization.linear import Fp8Linear, Int4Linear

CPU = torch.device("cpu")


def engine_of(network: Network, config: ModelConfig, precision: str) -> EagerEngine:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return EagerEngine(network, config, CPU, dtype, precision)


def build(config: ModelConfig, precision: str, seed: int = 0, whole: bool = True) -> EagerEngine:
    make = build_network if whole else streamed_network
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return engine_of(make(config, RandomWeights(config, CPU, seed), CPU, dtype, precision), config, precision)


@pytest.mark.parametrize("precision", ["bf16", "fp8", "int4", "fp8+vision+expert"])
def test_layer_by_layer_is_the_same_network(model_1_5: Model, small_request: Request, precision: str) -> None:
    whole = observe(build(model_1_5.config, precision), small_request, step_by_step=False)
    streamed = observe(build(model_1_5.config, precision, whole=False), small_request, step_by_step=False)
    for name in ("vision", "prefill_logits", "keys", "values", "velocity", "action"):
        assert torch.equal(getattr(whole, name), getattr(streamed, name)), name
        assert torch.isfinite(getattr(whole, name)).all(), name


def test_narrow_layers(model_1_5: Model) -> None:
    for precision, kind in (("fp8", Fp8Linear), ("int4", Int4Linear)):
        network = build(model_1_5.config, precision).network
        narrow = [name for name, module in network.named_modules() if isinstance(module, kind)]
        assert "language.layers.0.mlp.down_proj" in narrow
        assert all(name.startswith("language.") for name in narrow)
        held = sum(p.numel() * p.element_size() for p in network.parameters())
        assert network_bytes(model_1_5.config, torch.float32, precision) == held
        assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_a_seed_gives_the_same_weights(model_1_5: Model) -> None:
    config = model_1_5.config
    a, b, c = (build(config, "fp32", seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    weight = "language.layers.1.self_attn.q_proj.weight"
    assert not torch.equal(a[weight], c[weight])
    assert not torch.equal(a[weight], a[weight.replace("layers.1", "layers.2")])
    assert a["language.norm.weight"].mean() == pytest.approx(1, abs=0.1)


def test_activations_stay_near_one_at_released_depth(model_1_5: Model, small_request: Request) -> None:
    config = replace(
        model_1_5.config,
        language=replace(model_1_5.config.language, num_layers=36),
        expert=replace(model_1_5.config.expert, num_layers=36),
    )
    found = observe(build(config, "fp32"), small_request, step_by_step=False)
    for name in ("vision", "prefill_logits", "keys", "values", "velocity"):
        size = float(getattr(found, name).float().square().mean().sqrt())
        assert 0.05 < size < 20, name
    assert torch.isfinite(found.action).all()


def test_a_checkpoint_fills_the_same_network(model_1_5: Model) -> None:
    eager = model_1_5.engine
    assert isinstance(eager, EagerEngine)
    weights = CheckpointWeights(model_1_5.checkpoint, CPU)
    built = build_network(model_1_5.config, weights, CPU, torch.float32, "fp32").state_dict()
    loaded = eager.network.state_dict()
    assert built.keys() == loaded.keys()
    assert all(torch.equal(built[name], loaded[name]) for name in built)

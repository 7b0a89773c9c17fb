# SPDX-License-Identifier: Apache-2.0
"""The check lets a right engine pass and catches a wrong one, whichever stage is wrong."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
import torch

from alpamayo_rt import Model
from alpamayo_rt.bench.check import check, watch
from alpamayo_rt.bench.random_model import build_network
from alpamayo_rt.bench.weights import CheckpointWeights, RandomWeights, Weights
from alpamayo_rt.bench.workloads import Request
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.graphs.engine import GraphEngine
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

CPU = torch.device("cpu")


def quiet(line: str) -> None:
    pass


def checked(engine: Engine, weights: Weights, request: Request) -> dict[str, Any]:
    return check(watch(engine, request, quiet), weights, request, quiet)


def eager(model: Model) -> EagerEngine:
    assert isinstance(model.engine, EagerEngine)
    return model.engine


def test_the_eager_engine_agrees_in_float32(model_1_5: Model, small_request: Request) -> None:
    weights = CheckpointWeights(model_1_5.checkpoint, CPU)
    found = checked(eager(model_1_5), weights, small_request)
    assert found["passed"], found
    for name in ("vision", "prefill_logits", "cache", "velocity", "action"):
        assert found[name] < 1e-5
        assert found["eager"][name] < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_narrower_engines_are_compared_with_the_eager_one(
    model_1_5: Model, small_request: Request, precision: str
) -> None:
    config, weights = model_1_5.config, RandomWeights(model_1_5.config, CPU)
    network = build_network(config, weights, CPU, torch.bfloat16, precision)
    found = checked(EagerEngine(network, config, CPU, torch.bfloat16, precision), weights, small_request)
    assert 1e-4 < found["eager"]["cache"] < 0.2
    assert 0.5 < found["ratio"]["cache"] < 1.5
    assert ("eager_bf16" in found) == (precision == "fp8")
    if precision == "fp8":
        assert found["eager_bf16"]["cache"] < found["eager"]["cache"]


def test_the_engine_of_graphs_is_checked_as_it_is_timed(model_1_5: Model, small_request: Request) -> None:
    config, weights = model_1_5.config, RandomWeights(model_1_5.config, CPU)
    network = build_network(config, weights, CPU, torch.bfloat16, "bf16")
    engine = GraphEngine(network, config, CPU, torch.bfloat16, "bf16")
    found = checked(engine, weights, small_request)
    assert found["passed"], found
    assert 0.8 < found["ratio"]["cache"] < 1.25


@pytest.mark.parametrize("label", ["fp8+vision", "int4+vision+expert"])
def test_narrow_vision_is_checked_against_narrow_vision(
    model_1_5: Model, small_request: Request, label: str
) -> None:
    config, weights = model_1_5.config, RandomWeights(model_1_5.config, CPU)
    network = build_network(config, weights, CPU, torch.bfloat16, label)
    found = checked(GraphEngine(network, config, CPU, torch.bfloat16, label), weights, small_request)
    assert 0.8 < found["ratio"]["vision"] < 1.25
    assert found["eager_bf16"]["vision"] < 0.5 * found["eager"]["vision"]


class Wrong(EagerEngine):
    """Wrong by two in a thousand in one stage."""

    stage: str

    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        features = super().encode_images(images)
        if self.stage == "vision":
            return VisionFeatures(features.embeds * 1.002, features.deepstack)
        return features

    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        cache, logits = super().prefill(prompt, features, room)
        if self.stage == "cache":
            cache.values[-1] *= 1.002
        return cache, logits * (1.002 if self.stage == "prefill_logits" else 1)

    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        right = super().velocity_field(hand_off)
        return lambda x, t: right(x, t) * (1.002 if self.stage == "velocity" else 1)


@pytest.mark.parametrize("stage", ["vision", "prefill_logits", "cache", "velocity"])
def test_a_wrong_stage_is_caught(model_1_5: Model, small_request: Request, stage: str) -> None:
    right = eager(model_1_5)
    engine = Wrong(right.network, right.config, right.device, right.dtype, right.precision)
    engine.stage = stage
    found = checked(engine, CheckpointWeights(model_1_5.checkpoint, CPU), small_request)
    assert not found["passed"]
    assert stage in found["failed"]


def test_a_wrong_weight_is_caught(model_1_5: Model, small_request: Request) -> None:
    config, weights = model_1_5.config, RandomWeights(model_1_5.config, CPU)
    network = build_network(config, weights, CPU, torch.bfloat16, "bf16")
    network.language.layers[1].mlp.down_proj.weight[0] += 0.5
    found = checked(EagerEngine(network, config, CPU, torch.bfloat16, "bf16"), weights, small_request)
    assert "cache" in found["failed"]

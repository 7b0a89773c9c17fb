# SPDX-License-Identifier: Apache-2.0
"""Fused weights: stored once, still the modules' own, in a floating type, FP8 and INT4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pairs import CHECKPOINT, NEAR, WAYPOINTS, Pair, distance, keys_and_values, pair_of, same_caches, started
from situations import driving_sample
from torch import nn

from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.graphs.weights import fuse
from alpamayo_rt.engine.hand_off import hand_off
from alpamayo_rt.quantization.plan import Plan

SEQUENCES = [[11, 12, 13], [21]]
DECODE_BOUND = {"fp8": 0.1, "int4": NEAR}
"""Decode multiplies narrowed weights with inputs that are not narrowed; prefill, as eager, narrows both."""
PREFILL_BOUND = {"fp8": 5e-3, "int4": NEAR}
"""A float32 sum that is rounded differently may put an input on the next of e4m3's few values."""


@pytest.fixture(scope="module", params=["fp8", "int4"])
def narrow(request: pytest.FixtureRequest) -> Pair:
    return pair_of(CHECKPOINT, request.param)


def storages(module: nn.Module) -> int:
    """Bytes of memory behind all parameters, each piece counted once."""
    pieces = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in module.parameters()}
    return sum(pieces.values())


def test_weights_are_not_stored_twice(tiny: Pair) -> None:
    network = tiny.graphs.network
    assert storages(network) == storages(tiny.eager.network)
    for layers, decoder in (
        (tiny.graphs._layers, network.language),
        (tiny.graphs._expert_layers, network.expert.decoder),
    ):
        for weights, layer in zip(layers, decoder.layers, strict=True):
            for fused, parts in (
                (weights.qkv, (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)),
                (weights.gate_up, (layer.mlp.gate_proj, layer.mlp.up_proj)),
                (weights.o, (layer.self_attn.o_proj,)),
                (weights.down, (layer.mlp.down_proj,)),
            ):
                whole = fused.weight.values
                address = whole.data_ptr()
                for part in parts:
                    assert part.weight.data_ptr() == address
                    address += part.weight.nbytes
                assert address == whole.data_ptr() + whole.nbytes


@pytest.mark.parametrize("kind", ["float", "fp8", "int4"])
def test_fused_modules_still_work(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(n, 256, generator=generator) for n in (24, 8)]
    x = torch.randn(3, 256, generator=generator)

    def layers() -> list[Any]:
        made: list[Any] = []
        for weight in weights:
            if kind == "float":
                linear = nn.Linear(256, len(weight), bias=False)
                linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
                made.append(linear)
            else:
                made.append(Plan(kind).convert("", nn.Linear(256, len(weight), bias=False), weight))
        return made

    before, after = layers(), layers()
    fused = fuse(*after)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one(x), other(x))
    assert fused.inputs == 256
    restored = fused.weight.restored(256, torch.float32)
    assert distance(restored, torch.cat(weights)) < {"float": 1e-9, "fp8": 0.04, "int4": 0.2}[kind]


def test_the_fused_network_runs_on_the_eager_engine(tiny: Pair) -> None:
    graphs = tiny.graphs
    again = EagerEngine(graphs.network, graphs.config, graphs.device, graphs.dtype, graphs.precision)
    found = []
    for engine in (tiny.eager, again):
        cache, logits = engine.prefill(*started(tiny.eager_model, driving_sample(), 0)[2:], 200)
        engine.append(cache, [0], [SEQUENCES[0]])
        handed = hand_off(cache, SEQUENCES[:1], [0, 0], None, WAYPOINTS)
        found.append((logits, engine.denoise(draw_noise(2, WAYPOINTS, 0), 2, handed)))
    (logits, action), (wanted_logits, wanted_action) = found
    assert torch.equal(logits, wanted_logits)
    # The expert's norms have become part of the products behind them, in float32 here.
    assert distance(action, wanted_action) < 1e-5


def test_narrowed_networks(narrow: Pair) -> None:
    precision = narrow.graphs.precision
    prefill, decode = PREFILL_BOUND[precision], DECODE_BOUND[precision]
    wanted, logits, *_ = started(narrow.eager_model, driving_sample(), 500)
    ours, our_logits, *_ = started(narrow.graph_model, driving_sample(), 500)
    same_caches(ours, wanted, [0], prefill)
    # The prompt's last token runs as a decode step in its last layer.
    assert distance(our_logits, logits) < decode
    following = [e.append(c, [0, 1], SEQUENCES) for e, c in zip(narrow.both, (wanted, ours), strict=True)]
    assert distance(following[1], following[0]) < decode
    same_caches(ours, wanted, [0, 1], decode)
    noise = draw_noise(2, WAYPOINTS, 0)
    velocities = [
        engine.velocity_field(hand_off(cache, SEQUENCES, [0, 1], None, WAYPOINTS))(noise, torch.tensor(0.5))
        for engine, cache in zip(narrow.both, (wanted, ours), strict=True)
    ]
    assert distance(velocities[1], velocities[0]) < decode
    if precision == "fp8":
        # The bound is not idle: what decode gives is not what eager gives.
        assert distance(keys_and_values(ours, 0), keys_and_values(wanted, 0)) > NEAR


def test_narrow_weights_are_not_stored_twice(narrow: Pair) -> None:
    assert storages(narrow.graphs.network) == storages(narrow.eager.network)

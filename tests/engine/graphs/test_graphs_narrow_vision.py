# SPDX-License-Identifier: Apache-2.0
"""The vision tower with narrowed layers, all or some: as the eager engine, by each way of a GPU."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from pairs import CHECKPOINT, NEAR, Pair, distance, pair_of
from situations import driving_sample
from torch import nn

from alpamayo_rt import load
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.graphs import linear
from alpamayo_rt.engine.graphs.beside import Beside
from alpamayo_rt.engine.graphs.vision import VisionRun
from alpamayo_rt.kernels.products.operations import scaled_linear_into
from alpamayo_rt.model.network import Network
from alpamayo_rt.prompt.prompt import Images, prepare_images
from alpamayo_rt.quantization.linear import Fp8Linear, QuantizedLinear
from alpamayo_rt.quantization.plan import Plan

BOUND = {"fp8": 2e-2, "int4": NEAR}
"""A float32 sum that is rounded differently may put an input on the next of e4m3's few values."""


@pytest.fixture(scope="module")
def images(tiny: Pair) -> Images:
    return prepare_images(driving_sample((0, 1), 2), tiny.eager_model.config, torch.device("cpu"))


def stacked(engine: object, images: Images) -> torch.Tensor:
    features = engine.encode_images(images)  # type: ignore[attr-defined]
    return torch.stack([features.embeds, *features.deepstack])


@pytest.mark.parametrize("precision", BOUND)
def test_a_narrowed_tower(tiny: Pair, images: Images, precision: str) -> None:
    pair = pair_of(CHECKPOINT, precision, parts=("language", "vision"))
    assert pair.graphs.precision == f"{precision}+vision"
    kinds = [m for m in pair.graphs.network.vision.modules() if isinstance(m, QuantizedLinear)]
    assert len(kinds) == sum(isinstance(m, nn.Linear) for m in tiny.graphs.network.vision.modules()) > 8
    ours, wanted = (stacked(engine, images) for engine in (pair.graphs, pair.eager))
    assert distance(ours, wanted) < BOUND[precision]
    # Narrow indeed, and as near to what was narrowed as the eager engine is.
    exact = stacked(tiny.eager, images)
    assert 1e-2 < distance(ours, exact) < 1.25 * distance(wanted, exact)


def fresh() -> Network:
    engine = load(CHECKPOINT, "eager", "fp32", "cpu").engine
    assert isinstance(engine, EagerEngine)
    return engine.network


def narrow(network: Network, ends: Iterable[str], amax: float | None) -> None:
    plan = Plan("fp8", ("vision",), static=amax is not None)
    names = [name for name in plan.layers(network) if name.endswith(tuple(ends))]
    assert names
    plan = Plan("fp8", ("vision",), None if amax is None else dict.fromkeys(names, amax), amax is not None)
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        network.set_submodule(name, plan.convert(name, layer, layer.weight))


def run(network: Network, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the run of the engine and of the modules."""
    (_, rows, columns), *_ = images.grid.tolist()
    patches = images.pixel_values.view(len(images.grid), rows * columns, -1)
    with torch.inference_mode():
        made = VisionRun(network.vision, len(patches), rows, columns, Beside(torch.device("cpu")))
        made.take(patches)
        made()
        wanted = network.vision(patches, rows, columns)
    return made.features, torch.stack([wanted.embeds, *wanted.deepstack])


@pytest.mark.parametrize("amax", [None, 6.0])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "ends", [("attn.qkv",), ("attn.proj",), ("linear_fc1",), ("linear_fc2",), ("qkv", "proj", "fc1", "fc2")]
)
def test_any_layers_may_be_narrow(
    images: Images, ends: tuple[str, ...], inside: bool, amax: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = fresh()
    narrow(network, ends, amax)
    ways: list[tuple[bool, bool]] = []

    def counted(x: object, weight: object, out: torch.Tensor, bias: object = None, **how: bool) -> None:
        ways.append((how.get("gelu", False), how.get("add", False)))
        scaled_linear_into(x, weight, out, bias, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(linear, "scaled_linear_into", counted)
    monkeypatch.setattr(linear, "is_one_launch", lambda *given, **how: inside)
    ours, wanted = run(network, images)
    assert distance(ours, wanted) < BOUND["fp8"]
    assert len(ways) == sum(isinstance(module, Fp8Linear) for module in network.vision.modules())
    if len(ends) == 4:
        assert {way for way in ways if any(way)} == ({(False, True)} if inside else set())
    if ends == ("linear_fc1",):
        assert (True, False) in ways

# SPDX-License-Identifier: Apache-2.0
"""What is timed: a checkpoint, or a family's released sizes with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.bench.ceilings import PartBytes, part_bytes
from alpamayo_rt.bench.pipeline import unicycle_of
from alpamayo_rt.bench.random_model import build_network, network_bytes
from alpamayo_rt.bench.released import find_released, released_config
from alpamayo_rt.bench.timing import Say
from alpamayo_rt.bench.weights import CheckpointWeights, RandomWeights, Weights
from alpamayo_rt.bench.workloads import Request, Workload, released_request, request_of
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.loading import PRECISIONS, check_precision, load, make_engine, named_parts
from alpamayo_rt.model.network import Network
from alpamayo_rt.quantization.linear import has_fp8
from alpamayo_rt.quantization.parts import MAY_NARROW, NARROW, label_of
from alpamayo_rt.room import check_room

Parts = tuple[str, ...] | None
"""What a narrow precision narrows; None: the language model."""


@dataclass
class Subject:
    """A network in one precision, and how requests are made for it.

    Attributes:
        network: on the device.
        bytes: of the weights of each part, before an engine lays them out as it likes.
        config: its sizes.
        unicycle: with its statistics.
        precision: what it is called, with the parts that are narrowed (`parts.label_of`).
        dtype: of all that is not narrowed.
        weights: what it was made from; None where that is narrowed already.
        request: makes the request of a workload.
        model: name of the checkpoint; None for random weights.
    """

    network: Network
    bytes: PartBytes
    config: ModelConfig
    unicycle: Unicycle
    precision: str
    dtype: torch.dtype
    weights: Weights | None
    request: Callable[[Workload], Request]
    model: str | None

    def engine(self, name: str, device: torch.device) -> Engine:
        """Put the network on an engine.

        Raises:
            EngineError: it is not available.
        """
        return make_engine(name, self.network, self.config, device, self.dtype, self.precision)


def default_precisions(device: torch.device) -> list[str]:
    """What is timed when nothing is asked for."""
    if device.type == "cpu":
        return ["fp32"]
    return ["bf16", "fp8"] if has_fp8(device) else ["bf16"]


def open_checkpoint_subject(
    model: str, precision: str, device: torch.device, say: Say, parts: Parts = None
) -> Subject:
    """Load a checkpoint.

    Raises:
        ModelError, EngineError: it cannot be used.
    """
    loaded = load(model, "eager", precision, str(device), progress=say, parts=parts)
    engine = loaded.engine
    assert isinstance(engine, EagerEngine)
    narrowed = loaded.checkpoint.plan is not None
    return Subject(
        engine.network,
        part_bytes(engine.network),
        loaded.config,
        loaded.unicycle,
        engine.precision,
        engine.dtype,
        None if narrowed else CheckpointWeights(loaded.checkpoint, device),
        lambda workload: request_of(loaded, workload),
        loaded.checkpoint.name,
    )


def make_random_subject(
    model_type: str, precision: str, device: torch.device, seed: int, say: Say, parts: Parts = None
) -> Subject:
    """Random weights of a family's released sizes.

    Raises:
        ModelError: the family's sizes are not known.
        EngineError: precision or device cannot be used; a device that is too small is refused with both sizes.
    """
    check_precision(precision)
    narrow = named_parts(parts, precision)
    if precision == "fp8" and device.type == "cuda" and not has_fp8(device):
        raise EngineError(f"precision: fp8, but {torch.cuda.get_device_name(device)} has no fp8 products")
    config = released_config(*find_released(model_type))
    around = torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = around if precision in MAY_NARROW else PRECISIONS[precision]
    if precision in NARROW:
        precision = label_of(precision, narrow)
    sizes = {name: network_bytes(config, around, name) for name in (label_of(n, narrow) for n in NARROW)}
    sizes |= {name: network_bytes(config, kind, name) for name, kind in PRECISIONS.items()}
    check_room(sizes, precision, device)
    weights = RandomWeights(config, device, seed)
    say(f"random weights, {config.family.title} {precision}, {sizes[precision] / 2**30:.1f} GiB")
    network = build_network(config, weights, device, dtype, precision)
    return Subject(
        network,
        part_bytes(network),
        config,
        unicycle_of(network, config),
        precision,
        dtype,
        weights,
        lambda workload: released_request(config, workload, device),
        None,
    )


def open_subject(
    model: str | None,
    family: str | None,
    precision: str,
    device: torch.device,
    seed: int,
    say: Say,
    parts: Parts = None,
) -> Subject:
    """The checkpoint, or else the family.

    Raises:
        InputError: both are given, or neither.
    """
    if (model is None) == (family is None):
        raise InputError("--model, --family: give one of them")
    if model is not None:
        return open_checkpoint_subject(model, precision, device, say, parts)
    assert family is not None
    return make_random_subject(family, precision, device, seed, say, parts)

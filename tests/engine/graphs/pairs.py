# SPDX-License-Identifier: Apache-2.0
"""The same checkpoint on both engines: the eager one is the oracle of the fast one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from situations import SHIPPED

from alpamayo_rt import Model, Sample, load
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.graphs.engine import MOST_SLOTS, GraphEngine
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Prompt, prepare_images

NEAR = 1e-5
"""Relative L2 distance that the order of float32 sums explains."""
FLOW = 1e-3
"""The same over several steps: an expert of random weights amplifies what a step before it rounded."""
WAYPOINTS = 64
CHECKPOINT = str(SHIPPED / "model" / "checkpoint")
"""The tiny Alpamayo 1.5."""


@dataclass
class Pair:
    """Two models, and what is needed of them most."""

    eager_model: Model
    graph_model: Model

    @property
    def eager(self) -> EagerEngine:
        engine = self.eager_model.engine
        assert isinstance(engine, EagerEngine)
        return engine

    @property
    def graphs(self) -> GraphEngine:
        engine = self.graph_model.engine
        assert isinstance(engine, GraphEngine)
        return engine

    @property
    def both(self) -> tuple[EagerEngine, GraphEngine]:
        return self.eager, self.graphs

    def rule(self, closing: int | None = 33, end: int = 2) -> StopRule:
        return StopRule(((40, 60),), closing, end)


def on_graphs(model: Model, most_slots: int = MOST_SLOTS) -> Model:
    """A model of the eager engine on the other; its modules' weights are fused by that."""
    eager = model.engine
    assert isinstance(eager, EagerEngine)
    engine = GraphEngine(
        eager.network, model.config, eager.device, eager.dtype, eager.precision, most_slots=most_slots
    )
    return Model(model.checkpoint, engine, model.tokenizer, model.unicycle)


def pair_of(
    folder: str, precision: str = "fp32", device: str = "cpu", parts: tuple[str, ...] | None = None
) -> Pair:
    """A checkpoint loaded twice, so that neither engine touches the other's weights."""
    first, second = (load(folder, "eager", precision, device, parts=parts) for _ in range(2))
    return Pair(first, on_graphs(second))


def started(model: Model, sample: Sample, room: int) -> tuple[KvCache, torch.Tensor, Prompt, VisionFeatures]:
    """Cache and logits behind a sample's prompt."""
    images = prepare_images(sample, model.config, model.engine.device)
    prompt = model.prompt_of(sample, images)
    features = model.engine.encode_images(images)
    cache, logits = model.engine.prefill(prompt, features, room)
    return cache, logits, prompt, features


def greedy(limit: int) -> Sampling:
    return Sampling(0.0, 1.0, None, limit)


def keys_and_values(cache: KvCache, sequence: int) -> torch.Tensor:
    """What a sequence sees, the prompt included, in its order."""
    slots = cache.sequence_slots(sequence)
    return torch.stack([cache.keys[:, :, slots], cache.values[:, :, slots]]).float()


def distance(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative L2."""
    assert ours.shape == wanted.shape
    ours, wanted = ours.double().cpu(), wanted.double().cpu()
    return float((ours - wanted).norm() / wanted.norm().clamp(min=1e-30))


def same_caches(ours: KvCache, wanted: KvCache, sequences: Sequence[int], bound: float = NEAR) -> None:
    for sequence in sequences:
        assert distance(keys_and_values(ours, sequence), keys_and_values(wanted, sequence)) < bound

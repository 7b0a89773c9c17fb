# SPDX-License-Identifier: Apache-2.0
"""The workloads are what they are said to be: tokens, images, decode passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from alpamayo_rt import InputError, Model, ModelError
from alpamayo_rt.bench.ceilings import Ceilings, PartBytes, stage_work
from alpamayo_rt.bench.pipeline import Pipeline
from alpamayo_rt.bench.random_model import build_network, network_bytes
from alpamayo_rt.bench.released import IMAGE_PAD, find_released, released_config
from alpamayo_rt.bench.weights import CheckpointWeights
from alpamayo_rt.bench.workloads import (
    LIMIT,
    WORKLOADS,
    Request,
    choose_workloads,
    released_request,
    request_of,
)
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.graphs.engine import GraphEngine
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.errors import EngineError
from alpamayo_rt.families import FAMILIES
from alpamayo_rt.model.vision import VisionFeatures

CPU = torch.device("cpu")
TIMED = [family for family in FAMILIES.values() if family.released is not None]


class Counting(EagerEngine):
    """Keeps what each decode pass ran."""

    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        self.passes.append([row[0] for row in tokens])
        return super().append(cache, sequences, tokens, unseen)

    passes: list[list[int]]


def counting(model: Model) -> Counting:
    eager = model.engine
    assert isinstance(eager, EagerEngine)
    engine = Counting(eager.network, eager.config, eager.device, eager.dtype, eager.precision)
    engine.passes = []
    return engine


@pytest.mark.parametrize(("name", "passes"), [("W6", 31), ("W6-18", 17), ("W6m", 31)])
def test_exactly_so_many_decode_passes_run(model_1_5: Model, name: str, passes: int) -> None:
    request = request_of(model_1_5, replace(WORKLOADS[name], steps=1))
    engine = counting(model_1_5)
    trajectories = Pipeline(engine, model_1_5.unicycle, request).from_patches()
    assert len(engine.passes) == passes
    assert {len(row) for row in engine.passes} == {request.workload.sequences}
    # The closing token is run last, so that it is in the cache, and nothing after it.
    closing = model_1_5.tokenizer.future_start
    assert engine.passes[-1] == [closing] * request.workload.sequences
    assert all(closing not in row for row in engine.passes[:-1])
    assert trajectories.shape == (6, 64, 3)
    assert torch.isfinite(trajectories).all()


def test_what_is_not_the_workload_is_not_timed(model_1_5: Model, small_request: Request) -> None:
    Pipeline(model_1_5.engine, model_1_5.unicycle, small_request).check()
    forced = small_request.forced.clone()
    forced[0, 1] = small_request.rule.end
    with pytest.raises(EngineError, match="expected the forced 3"):
        Pipeline(model_1_5.engine, model_1_5.unicycle, replace(small_request, forced=forced)).check()


@pytest.mark.parametrize("family", TIMED, ids=lambda family: family.model_type)
def test_released_request(family) -> None:
    sizes = family.released
    config = released_config(*find_released(family.model_type))
    request = released_request(config, WORKLOADS["W6"], CPU)
    images = 4 * len(sizes.cameras)
    assert request.images.grid.tolist() == [[1, 20, 36]] * images
    assert len(request.prompt) == 180 * images + sizes.text_tokens
    assert request.prompt.rope_delta == -162 * images
    assert len(request.prompt.image_slots) == 180 * images
    assert set(request.prompt.ids[request.prompt.image_slots].tolist()) == {IMAGE_PAD}
    first = config.history.first_id
    past = (request.prompt.ids >= first) & (request.prompt.ids < first + config.history.num_bins)
    assert int(past.sum()) == config.history.num_tokens == sizes.history_tokens
    assert request.sample.frames is not None
    assert request.sample.frames.shape == (len(sizes.cameras), 4, 3, 1080, 1920)
    assert request.rule.closing == config.traj_token_ids["future_start"] == 155_681
    assert request.forced.shape == request.uniforms.shape == (1, LIMIT)
    assert (request.forced[0] == request.rule.closing).nonzero().tolist() == [[30]]
    assert (request.forced[0, 31:] == -1).all()
    assert int(request.prompt.ids.max()) < config.language.vocab_size


def test_released_sizes_and_floors() -> None:
    family = FAMILIES["alpamayo1_5"]
    config = released_config(*find_released(family.model_type))
    assert network_bytes(config, torch.bfloat16, "bf16") == 2 * 11_078_526_194
    request = released_request(config, WORKLOADS["W6"], CPU)
    work = stage_work(PartBytes(10**9, 15 * 10**9, 4 * 10**9, 20 * 10**9, frozenset()), config, request, 2)
    assert work["vision"].flop == pytest.approx(11.4e12, rel=0.02)
    assert work["prefill"].flop == pytest.approx(46e12, rel=0.02)
    # Its bytes bind a decode step: weights and cache over the copy's bandwidth.
    ceilings = Ceilings(3e12, 700e12, 1300e12)
    assert work["decode_step"].floor_ms(ceilings) == pytest.approx((15e9 + 3134 * 147_456) / 3e9, rel=0.01)
    narrow = frozenset({"vision"})
    faster = stage_work(PartBytes(10**9, 15 * 10**9, 4 * 10**9, 20 * 10**9, narrow), config, request, 2)
    assert faster["vision"].floor_ms(ceilings) == pytest.approx(work["vision"].floor_ms(ceilings) * 7 / 13)
    assert faster["prefill"].floor_ms(ceilings) == work["prefill"].floor_ms(ceilings)
    achieved = work["decode_step"].achieved(2 * work["decode_step"].floor_ms(ceilings), ceilings)
    assert achieved["of_ceiling"] == pytest.approx(0.5, abs=1e-3)


def test_frames_of_consecutive_windows(model_1_5: Model) -> None:
    request = request_of(model_1_5, WORKLOADS["W1-cached"])
    before, after = request.frame_ids(7), request.frame_ids(8)
    assert before is not None
    assert after is not None
    assert len(after) == len(set(after)) == 16
    assert len(set(after) & set(before)) == 12
    assert request_of(model_1_5, WORKLOADS["W1"]).frame_ids(0) is None


def test_cached_workloads_encode_the_newest_frames_alone(
    model_1_5: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = model_1_5.engine
    assert isinstance(eager, EagerEngine)
    weights = CheckpointWeights(model_1_5.checkpoint, CPU)
    network = build_network(model_1_5.config, weights, CPU, torch.float32, "fp32")
    engine = GraphEngine(network, model_1_5.config, CPU, torch.float32, "fp32")
    encode, encoded = engine._encode, []

    def counted(patches: torch.Tensor, rows: int, columns: int) -> VisionFeatures:
        encoded.append(len(patches))
        return encode(patches, rows, columns)

    monkeypatch.setattr(engine, "_encode", counted)
    # Both on one engine: the second workload's frames are not those of the first.
    for name in ("W6-cached", "W1-cached"):
        request = request_of(model_1_5, replace(WORKLOADS[name], candidates=1, tokens=2, steps=1))
        pipeline = Pipeline(engine, model_1_5.unicycle, request)
        for _ in range(3):
            pipeline.from_patches()
    assert encoded == [16, 4, 4, 16, 4, 4]


def test_choosing_workloads() -> None:
    assert [w.name for w in choose_workloads(None, reuses_frames=True)] == list(WORKLOADS)
    assert [w.name for w in choose_workloads(None, reuses_frames=False)] == ["W6", "W6m", "W1", "W6-18"]
    assert choose_workloads(["W1"], False, candidates=3, tokens=5, steps=2)[0].passes == 4
    with pytest.raises(InputError, match="workload: 'W7', expected some of W6, "):
        choose_workloads(["W7"], True)
    with pytest.raises(InputError, match="W6-cached needs an engine that keeps"):
        choose_workloads(["W6-cached"], False)
    with pytest.raises(ModelError, match="family: 'gpt', expected one of "):
        find_released("gpt")

# SPDX-License-Identifier: Apache-2.0
"""Work and memory that candidates share: a prompt is encoded, run and stored once, however many read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import pytest
import torch
from situations import driving_sample

from alpamayo_rt import Model
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.errors import InputError
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

LIMIT, STEPS, WAYPOINTS = 5, 2, 64


class CountingEngine(Engine):
    """Hands everything on to another engine and counts the stages."""

    def __init__(self, inner: Engine):
        super().__init__(inner.config, inner.device, inner.dtype)
        self.inner, self.name, self.precision = inner, inner.name, inner.precision
        self.calls: Counter[str] = Counter()
        self.images = 0
        self.prompts: list[int] = []
        self.caches: list[KvCache] = []

    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        self.calls["vision"] += 1
        self.images += len(images.grid)
        return self.inner.encode_images(images, frame_ids)

    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        self.calls["prefill"] += 1
        self.prompts.append(len(prompt))
        cache, logits = self.inner.prefill(prompt, features, room)
        self.caches.append(cache)
        return cache, logits

    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        self.calls["append"] += 1
        return self.inner.append(cache, sequences, tokens, unseen)

    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        self.calls["velocity_field"] += 1
        inner = self.inner.velocity_field(hand_off)

        def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self.calls["velocity"] += 1
            return inner(x, t)

        return velocity


@pytest.fixture
def counted(model: Model) -> tuple[Model, CountingEngine]:
    engine = CountingEngine(model.engine)
    return Model(model.checkpoint, engine, model.tokenizer, model.unicycle), engine


Counted = tuple[Model, CountingEngine]


@pytest.mark.parametrize("multi_seq", [False, True])
@pytest.mark.parametrize("candidates", [1, 4])
def test_vision_and_prompt_run_once_whatever_the_number_of_candidates(
    candidates: int, multi_seq: bool, counted: Counted
) -> None:
    model, engine = counted
    result = model.infer(
        driving_sample((0, 1), 2), candidates, STEPS, multi_seq=multi_seq, max_generate_length=LIMIT
    )
    assert engine.calls["vision"] == engine.calls["prefill"] == 1
    assert engine.images == 4
    assert engine.prompts == [result.prompt_tokens]
    # All sequences take a step together, and all candidates one velocity.
    assert engine.calls["append"] <= LIMIT - 1
    assert engine.calls["velocity"] == STEPS


def test_guidance_runs_vision_once_and_each_prompt_once(model_1_5: Model) -> None:
    engine = CountingEngine(model_1_5.engine)
    model = Model(model_1_5.checkpoint, engine, model_1_5.tokenizer, model_1_5.unicycle)
    model.infer(
        driving_sample(navigation="Turn left"),
        3,
        STEPS,
        max_generate_length=LIMIT,
        guidance_weight=1.5,
        temperature=0,
    )
    assert engine.calls["vision"] == 1
    assert engine.calls["prefill"] == 2
    assert engine.prompts[1] < engine.prompts[0]
    assert engine.calls["velocity"] == 2 * STEPS


@pytest.mark.parametrize("multi_seq", [False, True])
def test_cache_holds_the_prompt_once_and_a_tail_for_each_sequence_and_candidate(
    multi_seq: bool, counted: Counted
) -> None:
    model, engine = counted
    for candidates in (1, 6):
        result = model.infer(
            driving_sample(), candidates, STEPS, multi_seq=multi_seq, max_generate_length=LIMIT, keep_trace=True
        )
        (cache,) = engine.caches
        tails = (candidates if multi_seq else 1) * LIMIT + candidates * WAYPOINTS
        assert cache.keys.shape[2] == cache.values.shape[2] == result.prompt_tokens + tails
        assert result.trace is not None
        assert result.trace.hand_off.cache is cache  # read in place, not copied
        said = sum(map(len, result.generated_token_ids))
        assert cache.length <= result.prompt_tokens + said
        engine.caches.clear()


def test_single_mode_stores_the_reasoning_once(counted: Counted) -> None:
    model, engine = counted
    lengths = []
    for candidates in (1, 5):
        model.infer(driving_sample(), candidates, STEPS, max_generate_length=LIMIT)
        lengths.append(engine.caches.pop().length)
    assert lengths[0] == lengths[1]


def test_frame_ids_reach_the_engine_and_are_as_many_as_images(model: Model) -> None:
    seen: list[Sequence[Hashable] | None] = []

    class Listening(CountingEngine):
        def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
            seen.append(frame_ids)
            return super().encode_images(images, frame_ids)

    listening = Model(model.checkpoint, Listening(model.engine), model.tokenizer, model.unicycle)
    sample = driving_sample()
    ids = [("camera", n) for n in range(sample.num_images)]
    listening.infer(sample, num_candidates=1, max_generate_length=1, num_diffusion_steps=1, frame_ids=ids)
    assert seen == [ids]
    with pytest.raises(InputError, match=f"frame_ids: 1 keys, expected {sample.num_images}"):
        listening.infer(sample, frame_ids=ids[:1])

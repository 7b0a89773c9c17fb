# SPDX-License-Identifier: Apache-2.0
"""From a `Sample` to a `Result`: the order of the stages, and what stands between them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch

from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.answers import read_answer
from alpamayo_rt.checkpoint import Checkpoint
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.base import FINISHED, NO_TRAJECTORY_TOKEN, Engine, OnToken
from alpamayo_rt.engine.hand_off import HandOff, hand_off
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule, draw_uniforms
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import (
    Images,
    Prompt,
    build_prompt,
    check_request,
    prepare_images,
    shared_length,
    task_of,
)
from alpamayo_rt.prompt.tokenizer import PromptTokenizer
from alpamayo_rt.result import Result, Trace
from alpamayo_rt.sample.sample import Sample, as_array
from alpamayo_rt.settings import Settings
from alpamayo_rt.stopwatch import Stopwatch
from alpamayo_rt.tasks import Task


class Model:
    """A loaded checkpoint on an engine.

    Attributes:
        checkpoint: what was loaded.
        engine: the stages.
        tokenizer: text ↔ ids.
        unicycle: actions ↔ trajectories.
    """

    def __init__(self, checkpoint: Checkpoint, engine: Engine, tokenizer: PromptTokenizer, unicycle: Unicycle):
        self.checkpoint, self.engine = checkpoint, engine
        self.tokenizer, self.unicycle = tokenizer, unicycle
        self.config = checkpoint.config

    @torch.inference_mode()
    def infer(
        self,
        sample: Sample,
        num_candidates: int = 6,
        num_diffusion_steps: int = 10,
        multi_seq: bool = False,
        temperature: float = 0.6,
        top_p: float = 0.98,
        top_k: int | None = None,
        max_generate_length: int | None = None,
        seed: int = 0,
        noise: torch.Tensor | np.ndarray | None = None,
        guidance_weight: float | None = None,
        keep_trace: bool = False,
        on_token: OnToken | None = None,
        frame_ids: Sequence[Hashable] | None = None,
    ) -> Result:
        """Reason about a sample and propose trajectories, or say in words what its task asks for.

        Args:
            sample: frames, history, navigation or question, task.
            num_candidates: K trajectories.
            num_diffusion_steps: Euler steps of the flow.
            multi_seq: K reasonings over one prefill instead of one reasoning for all candidates.
            temperature: of the sampling; 0 is greedy.
            top_p: smallest mass of likeliest tokens that is kept.
            top_k: number of likeliest tokens that are kept; None keeps all, 1 is greedy.
            max_generate_length: sampled tokens at most; None: 256 for trajectories, else the task's limit.
            seed: of noise and sampling.
            noise: (K, W, 2) float32, x at t = 0, instead of seeded noise.
            guidance_weight: w of classifier-free guidance on the navigation; None is off.
            keep_trace: keep what a cache dump needs in `Result.trace`.
            on_token: is told each sequence and token as soon as it is known, so that text can be shown while it
                is written; what it raises ends the request.
            frame_ids: one key an image, camera-major, such as (camera, time). Images whose key has been seen
                lately are not encoded again by engines that keep features (graphs does); so a key must never
                stand for two pictures. None encodes all.

        Raises:
            InputError: the sample or a setting is wrong; the sentence names the field.
        """
        settings = Settings(
            num_candidates, num_diffusion_steps, multi_seq, temperature, top_p, top_k,
            max_generate_length, seed, guidance_weight,
        )  # fmt: skip
        task = self._check(sample, settings)
        if frame_ids is not None and len(frame_ids) != sample.num_images:
            raise InputError(f"frame_ids: {len(frame_ids)} keys, expected {sample.num_images}, one an image")
        watch = Stopwatch(self.engine.device)
        images = prepare_images(sample, self.config, self.engine.device, self.engine.patch_dtype)
        watch.lap("preprocess")
        features = self.engine.encode_for_prefill(images, frame_ids)
        watch.lap("vision")
        # On a GPU this is written while vision runs.
        prompt = self.prompt_of(sample, images)
        watch.lap("preprocess")
        if not task.drives:
            return self._answer(sample, task, prompt, features, settings, watch, on_token)
        return self._drive(sample, task, images, prompt, features, settings, noise, keep_trace, watch, on_token)

    def _check(self, sample: Sample, settings: Settings) -> Task:
        check_request(sample, self.config, self.tokenizer)
        if settings.guidance_weight is not None and sample.navigation is None:
            raise InputError("guidance_weight: given without navigation, expected one to be guided by")
        return task_of(sample, self.config.family)

    def prompt_of(self, sample: Sample, images: Images, config: ModelConfig | None = None) -> Prompt:
        """The prompt of a sample, with the actions of its future where the task shows them.

        Args:
            sample: what is asked.
            images: its patches.
            config: instead of the model's own.
        """
        actions = None
        if task_of(sample, self.config.family).needs_future and sample.ego_future_xyz is not None:
            assert sample.history_xyz is not None
            assert sample.history_rot is not None
            assert sample.ego_future_rot is not None
            actions = self.unicycle.inverse(
                sample.history_xyz, sample.history_rot, sample.ego_future_xyz, sample.ego_future_rot
            )
        return build_prompt(sample, images, config or self.config, self.tokenizer, actions)

    def stop_rule(self, task: Task) -> StopRule:
        """What a rollout may not say and what ends it."""
        return StopRule.of(task, self.config, self.tokenizer.future_start)

    def _answer(
        self,
        sample: Sample,
        task: Task,
        prompt: Prompt,
        features: VisionFeatures,
        settings: Settings,
        watch: Stopwatch,
        on_token: OnToken | None,
    ) -> Result:
        rule, sampling = self.stop_rule(task), _sampling(settings, task)
        cache, logits = self.engine.prefill(prompt, features, sampling.max_generate_length)
        watch.lap("prefill")
        uniforms = draw_uniforms(1, sampling.max_generate_length, settings.seed)
        rollout = self.engine.reason(cache, logits, sampling, rule, uniforms, on_token=on_token)
        watch.lap("decode")
        answer = self.text_of(rollout.tokens[0], task)
        reading = read_answer(answer, task.reads, sample.camera_indices, sample.image_size)
        return Result(
            [] if reading.reasoning is None else [reading.reasoning],
            rollout.tokens,
            # Without trajectories to follow, a text that ends by itself is complete.
            [FINISHED if reason == NO_TRAJECTORY_TOKEN else reason for reason in rollout.stop_reasons],
            len(prompt),
            settings.seed,
            watch.total(),
            answer=answer,
            task=task.name,
            reading=reading,
        )

    def _drive(
        self,
        sample: Sample,
        task: Task,
        images: Images,
        prompt: Prompt,
        features: VisionFeatures,
        settings: Settings,
        noise: torch.Tensor | np.ndarray | None,
        keep_trace: bool,
        watch: Stopwatch,
        on_token: OnToken | None,
    ) -> Result:
        k, waypoints = settings.num_candidates, self.config.action_space.n_waypoints
        rule, sampling = self.stop_rule(task), _sampling(settings, task)
        sequences = k if settings.multi_seq else 1
        room = sequences * sampling.max_generate_length + k * waypoints
        cache, logits = self.engine.prefill(prompt, features, room)
        watch.lap("prefill")
        uniforms = draw_uniforms(sequences, sampling.max_generate_length, settings.seed)
        reads = list(range(k)) if settings.multi_seq else [0] * k
        steps, weight = settings.num_diffusion_steps, settings.guidance_weight
        noise = draw_noise(k, waypoints, settings.seed) if noise is None else _check_noise(noise, k, waypoints)
        given = (cache, logits, sampling, rule, uniforms)
        unguided_prompt = unguided = None
        if weight is None:
            rollout, action = self.engine.drive(*given, reads, noise, steps, watch.lap, on_token=on_token)
        else:
            rollout = self.engine.reason(*given, on_token=on_token)
            watch.lap("decode")
            unguided_prompt, unguided = self.unguided_hand_off(
                sample, images, features, rollout.tokens, reads, (prompt, cache)
            )
            watch.lap("prefill")
        handed = None
        if keep_trace or weight is not None:
            handed = hand_off(cache, rollout.tokens, reads, rule.closing, waypoints)
        if handed is not None and weight is not None:
            action = self.engine.denoise(noise, steps, handed, unguided, weight)
            watch.lap("expert")
        assert sample.history_xyz is not None
        assert sample.history_rot is not None
        # The device may still be busy with the flow: here is what needs no action.
        start = self.unicycle.start(sample.history_xyz, sample.history_rot)
        reasoning = [self.text_of(tokens, task) for tokens in rollout.tokens]
        action = action.cpu()
        if not bool(torch.isfinite(action).all()):
            raise EngineError(
                f"actions: not finite; damaged weights, or {self.engine.precision} is too narrow for them"
            )
        xyz, rot = self.unicycle.integrate_from(start, action)
        if not bool(torch.isfinite(xyz).all() and torch.isfinite(rot).all()):
            raise InputError(
                "history_xyz: gives trajectories that are not finite, expected metres in the ego frame at t0"
            )
        trace = None
        if handed is not None and keep_trace:
            trace = Trace(prompt, handed, noise, action, steps, unguided_prompt, unguided, weight)
        return Result(
            reasoning,
            rollout.tokens,
            rollout.stop_reasons,
            len(prompt),
            settings.seed,
            watch.total(),
            xyz,
            rot,
            self.unicycle.denormalize(action),
            trace=trace,
        )

    def unguided_hand_off(
        self,
        sample: Sample,
        images: Images,
        features: VisionFeatures,
        tokens: list[list[int]],
        reads: list[int],
        guided: tuple[Prompt, KvCache] | None = None,
    ) -> tuple[Prompt, HandOff]:
        """The cache without the navigation: prompt without its text, then the same generated tokens.

        Args:
            sample: with its navigation.
            images: its patches.
            features: of the images, encoded once for both caches.
            tokens: what the sequences wrote with the navigation, up to the closing token.
            reads: the sequence of each candidate.
            guided: the prompt with the navigation and its cache, which begins with what both prompts share.
        """
        prompt = self.prompt_of(sample.replaced(navigation=None), images)
        closing, waypoints = self.tokenizer.future_start, self.config.action_space.n_waypoints
        room = sum(map(len, tokens)) + len(reads) * waypoints
        if guided is None:
            cache, _ = self.engine.prefill(prompt, features, room)
        else:
            cache, _ = self.engine.prefill_from(
                guided[1], shared_length(guided[0], prompt), prompt, features, room
            )
        # The reference masks its padding token in this pass, also where it was sampled as an ordinary one.
        self.engine.append(cache, range(len(tokens)), tokens, unseen=self.tokenizer.padding)
        return prompt, hand_off(cache, tokens, reads, closing, waypoints)

    def text_of(self, tokens: list[int], task: Task) -> str:
        """Reasoning or answer: the text before its closing marker, or all of it where that is missing."""
        closing, end = self.tokenizer.future_start, self.config.language.eos_token_id
        if self.config.family.cuts_text:
            said = self.tokenizer.decode(tokens)
            marks = [self.tokenizer.decode([mark]) for mark in (closing, end)]
            return min((said.split(mark)[0] for mark in marks), key=len).strip()
        left_out = (closing, end) if task.closes else (end,)
        said = self.tokenizer.decode([t for t in tokens if t not in left_out])
        # A marker that is written once more starts the text anew, as the reference reads it.
        return said.split(task.end)[0].rsplit(task.start, 1)[-1].strip()

    def provenance(self) -> dict[str, Any]:
        """What a result file says about the model that made it."""
        return {
            "name": self.checkpoint.name,
            "family": self.config.family.model_type,
            "hash": self.checkpoint.fingerprint(),
        }


def _sampling(settings: Settings, task: Task) -> Sampling:
    limit = settings.max_generate_length or task.limit
    return Sampling(settings.temperature, settings.top_p, settings.top_k, limit)


def _check_noise(noise: object, candidates: int, waypoints: int) -> torch.Tensor:
    noise = as_array(noise, "noise")
    if tuple(noise.shape) != (candidates, waypoints, 2) or not bool(torch.isfinite(noise).all()):
        raise InputError(
            f"noise: shape {tuple(noise.shape)}, expected finite numbers ({candidates}, {waypoints}, 2)"
        )
    return noise.float()

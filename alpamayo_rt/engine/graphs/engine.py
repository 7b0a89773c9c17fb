# SPDX-License-Identifier: Apache-2.0
"""The engine `graphs`: the stages over static buffers, each launched as one CUDA graph.

On a device without graphs the same work runs call by call, through the kernels' torch twins: that is how its
logic is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.base import Engine, Lap, OnToken, Rollout
from alpamayo_rt.engine.graphs.beside import Beside
from alpamayo_rt.engine.graphs.cache import CacheSet, CacheSets, SegmentedCache, up
from alpamayo_rt.engine.graphs.decode import DecodePass
from alpamayo_rt.engine.graphs.few import MOST_ROWS, FewRows
from alpamayo_rt.engine.graphs.flow import Flow, FlowRun
from alpamayo_rt.engine.graphs.frames import FrameCache
from alpamayo_rt.engine.graphs.graph import Graphs
from alpamayo_rt.engine.graphs.prefill import BUCKET, PrefillRun
from alpamayo_rt.engine.graphs.rollout import DecodeStep
from alpamayo_rt.engine.graphs.segments import Segments, gathered, of_cache
from alpamayo_rt.engine.graphs.together import append_together, finish_prompt
from alpamayo_rt.engine.graphs.vision import VisionRun
from alpamayo_rt.engine.graphs.weights import fold, fuse, layer_weights
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.engine.images import encode_by_size
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.errors import InputError
from alpamayo_rt.kernels.products.choice import mode_of_environment
from alpamayo_rt.model.network import Network
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

MOST_SLOTS = 16_384
"""Cache slots of a request at most: prompt, and what all sequences may write."""


class GraphEngine(Engine):
    """Fast on one GPU; the modules' weights are fused in place, so that they take no memory twice."""

    name = "graphs"

    def __init__(
        self,
        network: Network,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        precision: str,
        most_slots: int = MOST_SLOTS,
    ):
        super().__init__(config, device, dtype)
        mode_of_environment()  # a wrong value is said before the first request
        self.network, self.precision, self.frames = network, precision, FrameCache()
        with torch.inference_mode():
            # Parts that were not loaded have no data.
            loaded = not network.language.norm.weight.is_meta
            self._layers = layer_weights(network.language) if loaded else []
            self._head = fuse(network.language.lm_head)
            self._expert_layers = fold(layer_weights(network.expert.decoder))
        self._sets = CacheSets(config.language, most_slots, device, dtype)
        self._vision, self._prefill, self._rest = Graphs(device, 6), Graphs(device, 4), Graphs(device, 16)
        self._beside = Beside(device)
        self._few: dict[tuple[int, int], FewRows] = {}
        self._flows: dict[tuple[int, int], FlowRun] = {}

    @property
    def reuses_frames(self) -> bool:
        """See `Engine`."""
        return True

    @property
    def patch_dtype(self) -> torch.dtype:
        """See `Engine`."""
        return self.dtype

    @torch.inference_mode()
    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        """See `Engine`."""
        made = self.encode_for_prefill(images, frame_ids)
        if frame_ids is not None:
            return made
        return VisionFeatures(made.embeds.clone(), tuple(feature.clone() for feature in made.deepstack))

    @torch.inference_mode()
    def encode_for_prefill(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        """See `Engine`."""
        pixels = images.pixel_values.to(self.device)
        if frame_ids is None:
            return encode_by_size(images, pixels, self._encode)
        # The cache makes its own copies.
        return self.frames.encode(images, pixels, frame_ids, self._encode)

    def _encode(
        self, patches: torch.Tensor | Sequence[torch.Tensor], rows: int, columns: int
    ) -> VisionFeatures:
        def make() -> VisionRun:
            return VisionRun(self.network.vision, len(patches), rows, columns, self._beside)

        run, replay = self._vision.get((len(patches), rows, columns), make)
        run.take(patches)
        replay()
        return run.result()

    @torch.inference_mode()
    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        """See `Engine`."""
        length = up(len(prompt), BUCKET)
        home = self._home(length, room)
        cache = home.begin(len(prompt), prompt.rope_delta)
        deepstack = len(features.deepstack)

        def make() -> PrefillRun:
            few = self._rows(1, home)
            return PrefillRun(self.network.language, self._layers, self._head, few, home, length, deepstack)

        run, replay = self._prefill.get((home.number, length, deepstack), make)
        run.fill(prompt, features)
        replay()
        return cache, home.logits[0]

    @torch.inference_mode()
    def prefill_from(
        self, shared: KvCache, length: int, prompt: Prompt, features: VisionFeatures, room: int
    ) -> tuple[KvCache, torch.Tensor]:
        """See `Engine`. What is shared is copied, and only the text behind it runs."""
        assert isinstance(shared, SegmentedCache)
        images_end = int(prompt.image_slots.max()) + 1 if len(prompt.image_slots) else 0
        if not images_end <= length < len(prompt):
            return self.prefill(prompt, features, room)
        home = self._home(up(len(prompt), BUCKET), room)
        cache = home.begin(len(prompt), prompt.rope_delta)
        home.planes[:, :, :, :length].copy_(shared.home.planes[:, :, :, :length])
        home.logits.copy_(finish_prompt(self.network.language, cache, prompt, length))
        return cache, home.logits[0]

    def _home(self, prompt: int, room: int) -> CacheSet:
        # Tails are rounded up, each by less than a grain.
        home, fresh = self._sets.take(prompt, room + BUCKET * MOST_ROWS)
        if fresh:
            self._prefill.clear()
            self._rest.clear()
        return home

    def _rows(self, rows: int, home: CacheSet) -> FewRows:
        if rows > MOST_ROWS:
            raise InputError(f"request: {rows} sequences, the engine {self.name} decodes {MOST_ROWS} at most")
        key = rows, home.tail_start
        if key not in self._few:
            self._few[key] = FewRows(*key, self.config.language, self.device, self.dtype)
        return self._few[key]

    def _decode(self, cache: SegmentedCache) -> tuple[DecodeStep, Callable[[], None]]:
        def make() -> DecodeStep:
            few, language = self._rows(cache.rows, cache.home), self.network.language
            return DecodeStep(DecodePass(language, self._layers, self._head, few, cache.home, cache.tail_room))

        return self._rest.get(("decode", cache.home.number, cache.rows, cache.tail_room), make)

    @torch.inference_mode()
    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        """See `Engine`. Token by token through the decode step; with `unseen`, in guidance, all at once."""
        assert isinstance(cache, SegmentedCache)
        rows = max(max(sequences) + 1, cache.rows)
        cache.divide(rows, max(map(len, tokens)) + max(cache.tail_length, default=0))
        if unseen is not None:
            return append_together(self.network.language, cache, sequences, tokens, unseen)
        run, _ = self._decode(cache)
        return run.decode.append(cache, sequences, tokens)

    @torch.inference_mode()
    def reason(
        self,
        cache: KvCache,
        logits: torch.Tensor,
        sampling: Sampling,
        rule: StopRule,
        uniforms: torch.Tensor,
        forced: torch.Tensor | None = None,
        on_token: OnToken | None = None,
    ) -> Rollout:
        """See `Engine`."""
        assert isinstance(cache, SegmentedCache)
        run = self._roll_out(cache, logits, sampling, rule, uniforms, forced, on_token)
        return run.rollout(cache, on_token)

    def _roll_out(
        self,
        cache: SegmentedCache,
        logits: torch.Tensor,
        sampling: Sampling,
        rule: StopRule,
        uniforms: torch.Tensor,
        forced: torch.Tensor | None,
        on_token: OnToken | None,
    ) -> DecodeStep:
        """Launch everything up to the last pass that is needed; nothing has been waited for after that."""
        cache.divide(len(uniforms), sampling.max_generate_length)
        run, replay = self._decode(cache)
        run.begin(cache, logits, sampling, rule, uniforms, forced)
        run.follow(replay, on_token)
        return run

    @torch.inference_mode()
    def drive(
        self,
        cache: KvCache,
        logits: torch.Tensor,
        sampling: Sampling,
        rule: StopRule,
        uniforms: torch.Tensor,
        reads: Sequence[int],
        noise: torch.Tensor,
        steps: int,
        lap: Lap,
        forced: torch.Tensor | None = None,
        on_token: OnToken | None = None,
    ) -> tuple[Rollout, torch.Tensor]:
        """See `Engine`. The flow is launched behind the last decode pass, before its tokens are read.

        It may still be running when this returns.
        """
        assert isinstance(cache, SegmentedCache)
        cache.divide(len(uniforms), sampling.max_generate_length)
        # Captured first: that runs work, and the state of the rollout is about to be set.
        work, replay = self._captured_flow([cache], len(reads), noise.shape[1], steps)
        work.begin(noise, reads)
        run = self._roll_out(cache, logits, sampling, rule, uniforms, forced, on_token)
        lap("decode")
        run.hand_off(work.segments, work.run.ahead, work.run.frequencies)
        replay()
        lap("expert")
        action = work.run.x.clone()
        # What the host has to do with the tokens, it does while the flow runs.
        return run.rollout(cache, on_token), action

    def _captured_flow(
        self, caches: Sequence[SegmentedCache], candidates: int, waypoints: int, steps: int
    ) -> tuple[Flow, Callable[[], None]]:
        """All steps over a cache, or over two under guidance, and their replay."""
        flow = self._flow(candidates, waypoints, steps)

        def make() -> Flow:
            return Flow(flow, *(of_cache(cache, candidates, waypoints, self.config.expert) for cache in caches))

        places = tuple((cache.home.number, cache.rows, cache.tail_room) for cache in caches)
        return self._rest.get(("flow", places, candidates, steps), make)

    def _flow(self, candidates: int, waypoints: int, steps: int) -> FlowRun:
        if (candidates, steps) not in self._flows:
            self._flows[candidates, steps] = FlowRun(
                self.network.expert, self._expert_layers, candidates, waypoints, steps
            )
        return self._flows[candidates, steps]

    def _segments(self, hand_off: HandOff) -> Segments:
        cache = hand_off.cache
        if not isinstance(cache, SegmentedCache):
            return gathered(hand_off, self.config.expert)
        k, w = hand_off.position_ids.shape[1:]
        made = of_cache(cache, k, w, self.config.expert)
        made.take(hand_off, self.config.expert)
        return made

    @torch.inference_mode()
    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Engine`."""
        k, w = hand_off.position_ids.shape[1:]
        flow = self._flow(k, w, 1)
        segments = self._segments(hand_off)

        @torch.inference_mode()
        def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return flow.velocity(x, time, segments)

        return velocity

    @torch.inference_mode()
    def denoise(
        self,
        noise: torch.Tensor,
        steps: int,
        hand_off: HandOff,
        unguided: HandOff | None = None,
        guidance_weight: float = 1.0,
    ) -> torch.Tensor:
        """See `Engine`."""
        k, w = hand_off.position_ids.shape[1:]
        branches = [branch for branch in (hand_off, unguided) if branch is not None]
        caches = [branch.cache for branch in branches if isinstance(branch.cache, SegmentedCache)]
        if len(caches) < len(branches):
            # A recorded cache: run once, not worth a graph.
            work = Flow(self._flow(k, w, steps), *map(self._segments, branches))
            replay: Callable[[], None] = work
        else:
            work, replay = self._captured_flow(caches, k, w, steps)
            for segments, branch in zip((work.segments, work.unguided), branches, strict=False):
                assert segments is not None
                segments.take(branch, self.config.expert)
        work.run.weight.fill_(guidance_weight)
        work.run.x.copy_(noise)
        replay()
        return work.run.x.clone()

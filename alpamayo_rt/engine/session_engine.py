# SPDX-License-Identifier: Apache-2.0
"""An engine whose parts are files: vision, language model and expert are sessions or left to another engine.

So whoever has an expert's engine alone uses that one, and the rest runs as before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.appending import claim_tokens, fork_prompt
from alpamayo_rt.engine.base import Engine, OnToken, Rollout
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.engine.session_stages import LanguageStage, VisionStage
from alpamayo_rt.errors import EngineError
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

_COARSEST_LAST = ("fp32", "fp16", "bf16", "fp8", "int4")


class Expert(Protocol):
    """What runs the flow, `engine.expert_runner.ExpertRunner` for a session."""

    contract: str

    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Engine.velocity_field`."""
        ...

    def denoise(
        self,
        noise: torch.Tensor,
        steps: int,
        hand_off: HandOff,
        unguided: HandOff | None = None,
        guidance_weight: float = 1.0,
    ) -> torch.Tensor:
        """See `Engine.denoise`."""
        ...


class Stages(NamedTuple):
    """The parts that are sessions; None: the other engine's."""

    vision: VisionStage | None
    language: LanguageStage | None
    expert: Expert | None


class SessionEngine(Engine):
    """Runs each stage where it is.

    Args:
        name: of the kind of session, for provenance.
        precision: of each part, sessions and others.
        stages: the sessions.
        other: runs the stages that are not sessions; None where all are (or where they will not be asked for).
        config: of the model.
        device: where tensors live between the stages.
        dtype: of the cache.

    Raises:
        EngineError: the language model's cache is of another type than the expert beside it reads.
    """

    def __init__(
        self,
        name: str,
        precision: Sequence[str],
        stages: Stages,
        other: Engine | None,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
    ):
        super().__init__(config, device, dtype)
        self.name, self.stages, self.other = name, stages, other
        self.precision = max(precision, key=_COARSEST_LAST.index)
        if stages.language is not None and stages.expert is None and other is not None and other.dtype != dtype:
            raise EngineError(
                f"precision: the language model's session keeps its cache in {dtype}, the expert reads "
                f"{other.dtype}; expected one precision for both, or an expert session"
            )

    @property
    def whole_flow(self) -> bool:
        """See `Engine.whole_flow`."""
        return self.stages.expert is not None and self.stages.expert.contract == "shared-loop"

    @torch.inference_mode()
    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        """See `Engine`."""
        vision = self.stages.vision
        if vision is not None:
            return vision.encode(images)
        return self._other("vision").encode_images(images, frame_ids)

    @torch.inference_mode()
    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        """See `Engine`."""
        if self.stages.language is None:
            other = self._other("language")
            embeds, *deepstack = (
                f.to(other.device, other.dtype) for f in (features.embeds, *features.deepstack)
            )
            return other.prefill(prompt, VisionFeatures(embeds, tuple(deepstack)), room)
        return self.stages.language.prefill(prompt, features, room)

    @torch.inference_mode()
    def prefill_from(
        self, shared: KvCache, length: int, prompt: Prompt, features: VisionFeatures, room: int
    ) -> tuple[KvCache, torch.Tensor]:
        """See `Engine`; the shared slots are copied, only what follows them is computed."""
        if self.stages.language is None:
            return self._other("language").prefill_from(shared, length, prompt, features, room)
        forked = fork_prompt(shared, length, prompt, room, self.config.language, self.dtype)
        if forked is None:
            return self.prefill(prompt, features, room)
        cache, new = forked
        return cache, self.stages.language.append(cache, new)[0]

    @torch.inference_mode()
    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        """See `Engine`."""
        if self.stages.language is None:
            return self._other("language").append(cache, sequences, tokens, unseen)
        return self.stages.language.append(cache, claim_tokens(cache, sequences, tokens, unseen))

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
        """See `Engine`. An engine that has a faster way than token by token keeps it."""
        if self.stages.language is None:
            return self._other("language").reason(cache, logits, sampling, rule, uniforms, forced, on_token)
        return super().reason(cache, logits, sampling, rule, uniforms, forced, on_token)

    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Engine`."""
        return (self.stages.expert or self._other("expert")).velocity_field(hand_off)

    def denoise(
        self,
        noise: torch.Tensor,
        steps: int,
        hand_off: HandOff,
        unguided: HandOff | None = None,
        guidance_weight: float = 1.0,
    ) -> torch.Tensor:
        """See `Engine`."""
        runner = self.stages.expert or self._other("expert")
        return runner.denoise(noise.to(self.device), steps, hand_off, unguided, guidance_weight)

    def _other(self, part: str) -> Engine:
        if self.other is None:
            raise EngineError(f"{part}: neither a session nor loaded, expected an export with it or a --model")
        return self.other

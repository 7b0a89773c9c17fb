# SPDX-License-Identifier: Apache-2.0
"""The eager PyTorch engine: the oracle, on any device and in any floating type."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.appending import NewTokens, claim_tokens, fork_prompt
from alpamayo_rt.engine.attention import CachedAttention
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.engine.images import encode_by_size
from alpamayo_rt.engine.kv_cache import PROMPT, KvCache
from alpamayo_rt.model.network import Network
from alpamayo_rt.model.rotary import mrope_cos_sin
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt


class EagerEngine(Engine):
    """Runs the modules as they are written."""

    name = "eager"

    def __init__(
        self, network: Network, config: ModelConfig, device: torch.device, dtype: torch.dtype, precision: str
    ):
        super().__init__(config, device, dtype)
        self.network = network
        self.precision = precision

    @torch.inference_mode()
    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        """See `Engine`. Images of one size run together; sizes may differ within a request."""
        pixels = images.pixel_values.to(self.device, self.dtype)
        return encode_by_size(images, pixels, self.network.vision)

    @torch.inference_mode()
    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        """See `Engine`."""
        language, text = self.network.language, self.config.language
        n = len(prompt)
        cache = KvCache.allocate(text, n + room, n, prompt.rope_delta, self.device, self.dtype)
        cache.claim(torch.full((n,), PROMPT), torch.arange(n))
        slots = prompt.image_slots.to(self.device)
        hidden = language(
            language.embed(prompt.ids.to(self.device), slots, features.embeds.to(self.dtype)),
            *mrope_cos_sin(prompt.positions.to(self.device), text),
            CachedAttention(cache, 0, None),
            slots,
            features.deepstack,
        )
        return cache, language.logits(hidden[-1])

    @torch.inference_mode()
    def prefill_from(
        self, shared: KvCache, length: int, prompt: Prompt, features: VisionFeatures, room: int
    ) -> tuple[KvCache, torch.Tensor]:
        """See `Engine`; the shared slots are copied, only what follows them is computed."""
        forked = fork_prompt(shared, length, prompt, room, self.config.language, self.dtype)
        if forked is None:
            return self.prefill(prompt, features, room)
        cache, new = forked
        return cache, self._run(cache, new)[0]

    @torch.inference_mode()
    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        """See `Engine`."""
        return self._run(cache, claim_tokens(cache, sequences, tokens, unseen))

    def _run(self, cache: KvCache, new: NewTokens) -> torch.Tensor:
        language = self.network.language
        hidden = language(
            language.embed_tokens(new.ids),
            *mrope_cos_sin(new.positions, self.config.language),
            CachedAttention(cache, new.slots.start, new.mask),
        )
        return language.logits(hidden[new.last])

    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Engine`."""
        k, waypoints = hand_off.position_ids.shape[1:]
        cos, sin = mrope_cos_sin(hand_off.position_ids.flatten(1), self.config.expert)
        candidate = torch.arange(k, device=self.device).repeat_interleave(waypoints)
        mask = torch.cat([hand_off.attended[candidate], candidate[:, None] == candidate], 1)
        # The expert's own keys lie behind the cache's length: the next step writes over them.
        attend = CachedAttention(hand_off.cache, hand_off.cache.length, mask)

        @torch.inference_mode()
        def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return self.network.expert(x, time, cos, sin, attend)

        return velocity

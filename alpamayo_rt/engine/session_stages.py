# SPDX-License-Identifier: Apache-2.0
"""Vision tower and language model behind sessions: what their inputs are made of."""

from __future__ import annotations

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.appending import NewTokens
from alpamayo_rt.engine.bindings import language_bindings, vision_bindings
from alpamayo_rt.engine.images import encode_by_size
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.session import Session, check_bindings, output_type
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

HIDDEN = -1e30
"""Added to the score of what must not be seen; finite, so that a row that sees nothing does not become NaN."""


class VisionStage:
    """Images → features.

    Raises:
        EngineError: the session has other inputs or outputs than a vision tower's.
    """

    def __init__(self, session: Session, config: ModelConfig):
        self.session, self._config = session, config.vision
        self.dtype = output_type(session, "image_embeds")
        check_bindings(session, *vision_bindings(config, self.dtype))

    def encode(self, images: Images) -> VisionFeatures:
        """See `Engine.encode_images`."""
        pixels = images.pixel_values.to(self.session.device, torch.float32)
        return encode_by_size(images, pixels, self._encode)

    def _encode(self, patches: torch.Tensor, rows: int, columns: int) -> VisionFeatures:
        c, device = self._config, self.session.device
        tokens = len(patches) * rows * columns // c.merge_size**2
        names = [binding.name for binding in self.session.outputs]
        out = {name: torch.empty(tokens, c.out_hidden_size, dtype=self.dtype, device=device) for name in names}
        grid = torch.tensor([rows, columns], device=device)
        self.session.run({"pixel_values": patches, "grid": grid}, out)
        taps = range(len(c.deepstack_layers))
        return VisionFeatures(out["image_embeds"], tuple(out[f"deepstack_{i}"] for i in taps))


class LanguageStage:
    """Prompt and further tokens over a cache that this side keeps.

    Raises:
        EngineError: the session has other inputs or outputs than a language model's.
    """

    def __init__(self, session: Session, config: ModelConfig):
        self.session, self._config = session, config.language
        self._taps = len(config.vision.deepstack_layers)
        self.dtype = output_type(session, "kv_new")
        check_bindings(session, *language_bindings(config, self.dtype))

    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        """See `Engine.prefill`."""
        device, n = self.session.device, len(prompt)
        cache = KvCache.allocate(self._config, n + room, n, prompt.rope_delta, device, self.dtype)
        slots = cache.claim(cache.owner[:n].clone(), cache.order[:n].clone())
        # One cached place that nobody sees: a size of zero is not for every runtime.
        before = KvCache.allocate(self._config, 1, 0, 0, device, self.dtype).planes()
        causal = torch.full((n, n), HIDDEN, device=device).triu(1)
        mask = torch.cat([torch.full((n, 1), HIDDEN, device=device), causal], 1)
        places = prompt.image_slots.to(device)
        images = [self._placed(n, places, f) for f in (features.embeds, *features.deepstack)]
        shown = torch.zeros(n, dtype=torch.bool, device=device).index_fill(0, places, True)
        last = torch.tensor([n - 1], device=device)
        ids, positions = prompt.ids.to(device), prompt.positions.to(device)
        logits = self._run(cache, slots, before, ids, positions, mask, last, shown, images)
        return cache, logits[0]

    def append(self, cache: KvCache, new: NewTokens) -> torch.Tensor:
        """See `Engine.append`; the tokens have their slots already."""
        device, n = self.session.device, len(new.ids)
        past, capacity = new.slots.start, len(cache.owner)
        seen = torch.zeros(n, capacity + n, dtype=torch.bool, device=device)
        # The cache is bound as a whole; the new tokens are seen beside it, not in it.
        seen[:, :past], seen[:, capacity:] = new.mask[:, :past], new.mask[:, past:]
        mask = torch.where(seen, 0.0, HIDDEN)
        nothing = torch.zeros(n, self._config.hidden_size, dtype=self.dtype, device=device)
        shown = torch.zeros(n, dtype=torch.bool, device=device)
        images = [nothing] * (1 + self._taps)
        return self._run(
            cache, new.slots, cache.planes(), new.ids, new.positions, mask, new.last, shown, images
        )

    def _run(
        self,
        cache: KvCache,
        slots: slice,
        planes: torch.Tensor | None,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        rows: torch.Tensor,
        shown: torch.Tensor,
        images: list[torch.Tensor],
    ) -> torch.Tensor:
        assert planes is not None, "this stage's caches have keys and values in one block"
        feeds = {
            "input_ids": ids,
            "position_ids": positions.contiguous(),
            "attention_mask": mask,
            "kv_cache": planes,
            "logit_rows": rows,
            "image_mask": shown,
            "image_embeds": images[0],
            **{f"deepstack_{i}": feature for i, feature in enumerate(images[1:])},
        }
        out = self.session.run(feeds)
        new = out["kv_new"].view(len(cache.keys), 2, *out["kv_new"].shape[2:])
        cache.keys[:, :, slots], cache.values[:, :, slots] = new[:, 0], new[:, 1]
        return out["logits"]

    def _placed(self, n: int, places: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
        """(n, hidden), the feature's rows at their places and zeros elsewhere."""
        rows = torch.zeros(n, self._config.hidden_size, dtype=self.dtype, device=self.session.device)
        return rows.index_copy(0, places, feature.to(rows))

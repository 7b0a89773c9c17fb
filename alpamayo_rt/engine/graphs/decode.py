# SPDX-License-Identifier: Apache-2.0
"""One token of every sequence through the language model, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from alpamayo_rt.engine.graphs.cache import CacheSet, SegmentedCache
from alpamayo_rt.engine.graphs.few import FewRows, Seen
from alpamayo_rt.engine.graphs.many import Places
from alpamayo_rt.engine.graphs.weights import Fused, LayerWeights
from alpamayo_rt.kernels.rollout.operations import RolloutState
from alpamayo_rt.kernels.skinny.operations import embed_and_place
from alpamayo_rt.model.language import LanguageModel
from alpamayo_rt.model.rotary import mrope_cos_sin


class DecodePass:
    """Buffers and work of one pass over R sequences of a cache set.

    Attributes:
        state: holds, for each row, the token that runs, its position, its slot, and how many tokens of its tail
            it sees.
        few: holds the logits afterwards.
    """

    def __init__(
        self,
        language: LanguageModel,
        layers: list[LayerWeights],
        head: Fused,
        few: FewRows,
        home: CacheSet,
        tail_room: int,
    ):
        rows, device = len(few.x), home.planes.device
        self.language, self.layers, self.lm_head, self.few, self.home = language, layers, head, few, home
        self.rows, self.tail_room = rows, tail_room

        state = RolloutState.allocate(rows, tail_room - 1, device)
        if state.flags.is_pinned():
            # The host reads along.
            state = replace(state, history=torch.full(state.history.shape, -1).pin_memory())
        self.state = state
        self.token, self.position, self.slot, self.attended = (
            state.token,
            state.position,
            state.slot,
            state.attended,
        )
        # The last slot of a tail is nobody's: what runs for nothing goes there.
        self.spare = home.tail_start + torch.arange(1, rows + 1, device=device) * tail_room - 1
        self.slot.copy_(self.spare)
        every = torch.arange(home.capacity, device=device).expand(3, -1)
        half = language.config.head_dim // 2
        # A position is below the number of tokens before it.
        cos, sin = mrope_cos_sin(every, language.config)
        self._angles = cos[:, :half].contiguous(), sin[:, :half].contiguous()
        cos, sin = torch.zeros(2, rows, half, device=device)
        self._places = Places(cos, sin, self.slot)
        self._seen = Seen(home.prefix_length, home.tail_start, tail_room, self.attended)

    def __call__(self) -> None:
        """Run the tokens."""
        few = self.few
        embed_and_place(
            self.language.embed_tokens.weight,
            self.token,
            few.x,
            self._angles,
            self.position,
            (self._places.cos, self._places.sin),
        )
        for i, weights in enumerate(self.layers):
            keys, values = self.home.planes[i]
            few.layer(weights, self._places, keys, values, self._seen)
        few.head(self.language.norm.weight, self.lm_head)

    def append(
        self, cache: SegmentedCache, sequences: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """See `Engine.append`: one pass for each token of the longest sequence."""
        logits = [torch.empty(0)] * len(tokens)
        for step in range(max(map(len, tokens))):
            token, position = [0] * self.rows, [0] * self.rows
            slot, attended = self.spare.tolist(), [1] * self.rows
            for s, row in zip(sequences, tokens, strict=True):
                if step < len(row):
                    index = cache.tail_length[s] + step
                    token[s], attended[s] = row[step], index + 1
                    position[s] = cache.prompt_length + index + cache.rope_delta
                    slot[s] = self.home.tail_start + s * self.tail_room + index
            for target, source in (
                (self.token, token), (self.position, position), (self.slot, slot), (self.attended, attended)
            ):  # fmt: skip
                target.copy_(torch.tensor(source))
            self()
            for i, (s, row) in enumerate(zip(sequences, tokens, strict=True)):
                if step + 1 == len(row):
                    logits[i] = self.few.logits[s].clone()
        self.slot.copy_(self.spare)
        cache.grow(sequences, tokens)
        return torch.stack(logits)

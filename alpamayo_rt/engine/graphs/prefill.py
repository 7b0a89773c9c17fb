# SPDX-License-Identifier: Apache-2.0
"""The prompt through the language model, padded to a bucket of lengths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alpamayo_rt.engine.graphs.cache import CacheSet
from alpamayo_rt.engine.graphs.few import FewRows, Seen
from alpamayo_rt.engine.graphs.many import Feature, Places, keys_of_many, layer_of_many
from alpamayo_rt.engine.graphs.staging import Staging
from alpamayo_rt.engine.graphs.weights import Fused, LayerWeights
from alpamayo_rt.model.language import LanguageModel
from alpamayo_rt.model.rotary import mrope_angles, mrope_tables
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Prompt

BUCKET = 64
"""Prompts are padded to a multiple of this: at most 2 % of 3,120 tokens, half of it on average."""


class PrefillRun:
    """Static inputs and the work for prompts of up to `length` tokens into one cache set."""

    def __init__(
        self,
        language: LanguageModel,
        layers: list[LayerWeights],
        head: Fused,
        few: FewRows,
        home: CacheSet,
        length: int,
        deepstack: int,
    ):
        c, device = language.config, home.planes.device
        self.language, self.layers, self.lm_head, self.few, self.home = language, layers, head, few, home
        self._staging = Staging(
            device,
            ids=((length,), torch.int64),
            positions=((3, length), torch.int64),
            row=((length,), torch.int64),
            last=((1,), torch.int64),
        )
        there = self._staging.there
        self.ids, self.positions, self.row, self.last = (
            there[name] for name in ("ids", "positions", "row", "last")
        )
        self.features = home.planes.new_zeros(1 + deepstack, length, c.hidden_size)
        self._slots = torch.arange(length, device=device)
        self._tables = mrope_tables(c, device)
        self._no_tail = torch.zeros(1, dtype=torch.int64, device=device)
        self._spare = torch.full((1,), home.tail_start, device=device)

    def fill(self, prompt: Prompt, features: VisionFeatures) -> None:
        """Take a prompt; its cache set has begun with it. Nobody waits, so that vision may still be running."""
        n, images = len(prompt), len(prompt.image_slots)
        here = self._staging.here()
        here["ids"][:n] = prompt.ids
        here["ids"][n:] = 0
        here["positions"][:, :n] = prompt.positions
        here["row"].fill_(-1)
        here["row"][prompt.image_slots] = torch.arange(images)
        here["last"].fill_(n - 1)
        self._staging.send()
        features.copy_to(self.features[:, :images])

    def __call__(self) -> None:
        """Static inputs → cache, and logits at the last position."""
        language, c = self.language, self.language.config
        embedded = F.embedding(self.ids, language.embed_tokens.weight)
        seen = self.features[0].index_select(0, self.row.clamp(min=0))
        x = torch.where((self.row >= 0)[:, None], seen, embedded)
        cos, sin = (
            angles[:, : c.head_dim // 2].contiguous() for angles in mrope_angles(self.positions, *self._tables)
        )
        places = Places(cos, sin, self._slots)
        delta = None
        for i, weights in enumerate(self.layers):
            # DeepStack features belong behind a layer: to what the next one adds to the stream.
            feature = Feature(self.features[i], self.row) if 0 < i < len(self.features) else None
            keys, values = self.home.planes[i]
            if i + 1 == len(self.layers):
                keys_of_many(x, delta, weights, c, places, keys, values, feature)
                break
            delta = layer_of_many(x, delta, i, weights, c, places, keys, values, self._attend, feature)
        self._last_row(x, places)

    def _last_row(self, x: torch.Tensor, places: Places) -> None:
        # Of the last layer only one token's output is read: it runs as a decode step would. Its key is among
        # the prompt's already, and is written once more behind them, where nobody reads at the same time.
        few, layer = self.few, len(self.layers) - 1
        few.x.copy_(x.index_select(0, self.last))
        here = Places(places.cos.index_select(0, self.last), places.sin.index_select(0, self.last), self._spare)
        keys, values = self.home.planes[layer]
        seen = Seen(self.home.prefix_length, self.home.tail_start, 1, self._no_tail)
        few.layer(self.layers[layer], here, keys, values, seen)
        few.head(self.language.norm.weight, self.lm_head)
        self.home.logits.copy_(few.logits)

    def _attend(self, layer: int, q: torch.Tensor) -> torch.Tensor:
        keys, values = self.home.planes[layer, :, :, : len(q)]
        with fastest_attention(q.device):
            out = F.scaled_dot_product_attention(
                q.transpose(0, 1)[None], keys[None], values[None], is_causal=True, enable_gqa=True
            )
        return out[0].transpose(0, 1).flatten(1)


@contextmanager
def fastest_attention(device: torch.device) -> Iterator[None]:
    """Let the library's fused attention kernels be tried in the order of their speed on Hopper."""
    if device.type != "cuda":
        yield
        return
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield

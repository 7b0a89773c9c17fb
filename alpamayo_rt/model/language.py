# SPDX-License-Identifier: Apache-2.0
"""The language model: embeddings, decoder, untied head."""

from __future__ import annotations

import torch
from torch import nn

from alpamayo_rt.config import TextConfig
from alpamayo_rt.model.decoder import Decoder
from alpamayo_rt.model.embedding import embedding


class LanguageModel(Decoder):
    """The text part of the vision-language model."""

    def __init__(self, c: TextConfig):
        super().__init__(c)
        self.config = c
        self.embed_tokens = embedding(c.vocab_size, c.hidden_size)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)

    def embed(self, ids: torch.Tensor, image_slots: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """Embeddings (N, hidden) of ids (N,), with the vision tower's tokens in the image slots."""
        return self.embed_tokens(ids).index_copy(0, image_slots, image_embeds)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(N, hidden) → (N, vocabulary), float32."""
        return self.lm_head(hidden).float()

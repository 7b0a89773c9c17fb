# SPDX-License-Identifier: Apache-2.0
"""The language model as a module to trace: one graph for the prompt and for generated tokens."""

from __future__ import annotations

import torch
from torch import nn

from alpamayo_rt.export.attention import GrowingAttention
from alpamayo_rt.export.expert import Rotary
from alpamayo_rt.model.language import LanguageModel


class ExportedLanguage(nn.Module):
    """New tokens over cached ones.

    Image tokens come for all N tokens, with zeros where there is no image, so that the graph has no scatter and
    no dimension that is zero when tokens are generated.
    """

    def __init__(self, language: LanguageModel):
        super().__init__()
        self.language, self.rotary = language, Rotary(language.config)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        kv_cache: torch.Tensor,
        logit_rows: torch.Tensor,
        image_mask: torch.Tensor,
        image_embeds: torch.Tensor,
        *deepstack: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `engine.bindings.language_bindings`."""
        language = self.language
        attend = GrowingAttention(language.config, kv_cache, attention_mask)
        x = torch.where(image_mask[:, None], image_embeds, language.embed_tokens(input_ids))
        hidden = language(x, *self.rotary(position_ids), attend, None, deepstack)
        return language.logits(hidden.index_select(0, logit_rows)), torch.stack(attend.new)[:, None]

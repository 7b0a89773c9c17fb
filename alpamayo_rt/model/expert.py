# SPDX-License-Identifier: Apache-2.0
"""The action expert: predicts the flow's velocity from noisy actions and the language model's cache."""

from __future__ import annotations

import torch
from torch import nn

from alpamayo_rt.config import ActionInConfig, TextConfig
from alpamayo_rt.model.action_projection import ActionInProjection
from alpamayo_rt.model.decoder import Attend, Decoder


class Expert(nn.Module):
    """Action input projection → decoder over cache and own tokens → action output projection."""

    def __init__(self, text: TextConfig, action_in: ActionInConfig):
        super().__init__()
        self.config = text
        self.action_in_proj = ActionInProjection(action_in, text.hidden_size)
        self.decoder = Decoder(text)
        self.action_out_proj = nn.Linear(text.hidden_size, 2)

    def forward(
        self, actions: torch.Tensor, time: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Velocity of the flow.

        Args:
            actions: (K, W, 2) float32 normalized actions at flow time `time`.
            time: () float32.
            cos: (K·W, head_dim) float32 rotary positions, as is sin.
            sin: see cos.
            attend: lets the K·W tokens see the cache and the tokens of their own candidate.

        Returns:
            (K, W, 2) float32.
        """
        tokens = self.action_in_proj(actions, time).flatten(0, 1)
        hidden = self.decoder(tokens, cos, sin, attend)
        return self.action_out_proj(hidden).float().view_as(actions)

# SPDX-License-Identifier: Apache-2.0
"""The expert as modules to trace, one a contract."""

from __future__ import annotations

import torch
from torch import nn

from alpamayo_rt.config import TextConfig
from alpamayo_rt.export.attention import FusedAttention, SharedAttention
from alpamayo_rt.model.decoder import Attend
from alpamayo_rt.model.expert import Expert
from alpamayo_rt.model.rotary import mrope_angles, mrope_tables


class Rotary(nn.Module):
    """The tables of the rotary positions as constants of the graph."""

    component: torch.Tensor
    frequencies: torch.Tensor

    def __init__(self, config: TextConfig):
        super().__init__()
        component, frequencies = mrope_tables(config, torch.device("cpu"))
        self.register_buffer("component", component)
        self.register_buffer("frequencies", frequencies)

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(3, N) int64 → cosines and sines (N, head_dim) float32."""
        return mrope_angles(positions, self.component, self.frequencies)


class _ExportedExpert(nn.Module):
    def __init__(self, expert: Expert, waypoints: int):
        super().__init__()
        self.expert, self.waypoints = expert, waypoints
        self.rotary = Rotary(expert.config)

    def velocity(
        self, action: torch.Tensor, time: torch.Tensor, position_ids: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """(B, W, 2), (1,) or (B, 1) → (B, W, 2), float32."""
        return self.expert(action, time, *self.rotary(position_ids.flatten(1)), attend)


class FusedExpert(_ExportedExpert):
    """One velocity; cache, mask and action as the deployed runner binds them."""

    def forward(
        self,
        noisy_action: torch.Tensor,
        timestep: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        kv_cache: torch.Tensor,
    ) -> torch.Tensor:
        """See `engine.bindings.expert_bindings`."""
        attend = FusedAttention(self.expert.config, self.waypoints, kv_cache, attention_mask)
        return self.velocity(noisy_action, timestep[:, :, 0], position_ids, attend)


class SharedExpert(_ExportedExpert):
    """One velocity and the Euler step, over a cache that all candidates share."""

    def forward(
        self,
        noisy_action: torch.Tensor,
        timestep: torch.Tensor,
        dt: torch.Tensor,
        position_ids: torch.Tensor,
        kv_prefix: torch.Tensor,
        prefix_length: torch.Tensor,
        kv_tail: torch.Tensor,
        tail_length: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `engine.bindings.expert_bindings`."""
        attend = SharedAttention(
            self.expert.config, self.waypoints, kv_prefix, prefix_length, kv_tail, tail_length
        )
        velocity = self.velocity(noisy_action, timestep[:, None], position_ids, attend)
        return velocity, noisy_action + dt * velocity

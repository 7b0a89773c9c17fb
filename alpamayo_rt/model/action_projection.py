# SPDX-License-Identifier: Apache-2.0
"""The action input projection: Fourier features of acceleration, curvature and flow time → expert tokens."""

from __future__ import annotations

import math

import torch
from torch import nn

from alpamayo_rt.config import ActionInConfig
from alpamayo_rt.model.decoder import RMSNorm

_EPS = 1e-5


class FourierFeatures(nn.Module):
    """√2·[sin 2πf u, cos 2πf u] with log-spaced frequencies f, computed in float32.

    The frequencies are a float32 buffer whatever the model's type, because a checkpoint may store them rounded
    and they have to be used exactly as stored.
    """

    freqs: torch.Tensor

    def __init__(self, num_features: int, max_freq: float):
        super().__init__()
        freqs = torch.logspace(0, math.log10(max_freq), num_features // 2, dtype=torch.float32)
        self.register_buffer("freqs", freqs[None])

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """(…) float32 → (…, num_features) float32."""
        argument = u[..., None] * self.freqs[0] * 2 * torch.pi
        return torch.cat([argument.sin(), argument.cos()], -1) * math.sqrt(2)


class Encoder(nn.Module):
    """Linear → SiLU, then RMSNorm → Linear (→ SiLU) per further layer, in the checkpoint's order."""

    def __init__(self, features: int, c: ActionInConfig, out: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(features, c.hidden_size), nn.SiLU()]
        for i in range(c.num_enc_layers):
            last = i == c.num_enc_layers - 1
            layers += [RMSNorm(c.hidden_size, _EPS), nn.Linear(c.hidden_size, out if last else c.hidden_size)]
            layers += [] if last else [nn.SiLU()]
        self.trunk = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, features) → (…, out)."""
        return self.trunk(x)


class ActionInProjection(nn.Module):
    """Noisy actions and flow time → one expert token a waypoint."""

    def __init__(self, c: ActionInConfig, out: int):
        super().__init__()
        self.sinus = nn.ModuleList(FourierFeatures(c.num_fourier_feats, c.max_freq) for _ in range(2))
        self.timestep_fourier_encoder = FourierFeatures(c.num_fourier_feats, c.max_freq)
        self.encoder = Encoder(3 * c.num_fourier_feats, c, out)
        self.norm = nn.LayerNorm(out, _EPS)

    def forward(self, actions: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Project.

        Args:
            actions: (K, W, 2) float32, normalized (acceleration, curvature).
            time: () float32, flow time in [0, 1].

        Returns:
            (K, W, out) in the model's type.
        """
        features = [sinus(actions[..., i]) for i, sinus in enumerate(self.sinus)]
        features.append(self.timestep_fourier_encoder(time).expand(*actions.shape[:-1], -1))
        return self.norm(self.encoder(torch.cat(features, -1).to(self.norm.weight.dtype)))

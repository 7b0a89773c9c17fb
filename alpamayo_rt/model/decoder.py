# SPDX-License-Identifier: Apache-2.0
"""The Qwen3 text decoder, which both the language model and the action expert are.

Tokens of all sequences lie in one flat dimension N. Who may see whom is the caller's business: a layer hands
its queries, keys and values to `attend`, which knows the cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.config import TextConfig
from alpamayo_rt.model.rotary import rotate

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, q (heads, N, d), k (kv heads, N, d), v (kv heads, N, d)) → (heads, N, d)."""


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, then times the weight."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, dim) → (…, dim)."""
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)


class SelfAttention(nn.Module):
    """Projections, per-head norms and rotary positions around an attention that the caller supplies."""

    def __init__(self, c: TextConfig):
        super().__init__()
        self.head_dim = c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.num_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend, layer: int
    ) -> torch.Tensor:
        """(N, hidden) → (N, hidden)."""
        heads = (x.shape[0], -1, self.head_dim)  # not len(): a traced size may be symbolic
        q = rotate(self.q_norm(self.q_proj(x).view(heads)).transpose(0, 1), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(heads)).transpose(0, 1), cos, sin)
        v = self.v_proj(x).view(heads).transpose(0, 1)
        return self.o_proj(attend(layer, q, k, v).transpose(0, 1).flatten(1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, c: TextConfig):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, hidden) → (N, hidden)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual."""

    def __init__(self, c: TextConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = SelfAttention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend, layer: int
    ) -> torch.Tensor:
        """(N, hidden) → (N, hidden)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """All layers and the final norm."""

    def __init__(self, c: TextConfig):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.num_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: Attend,
        image_slots: torch.Tensor | None = None,
        deepstack: tuple[torch.Tensor, ...] = (),
    ) -> torch.Tensor:
        """Run the layers.

        Args:
            x: (N, hidden) embeddings.
            cos: (N, head_dim) float32, as is sin: rotary positions.
            sin: see cos.
            attend: the attention over the caller's cache.
            image_slots: (M,) positions of image tokens among the N; None: features come for all N tokens, zeros
                where there is no image.
            deepstack: one (M, hidden) feature for each of the first layers, added there after the layer.

        Returns:
            (N, hidden), normed.
        """
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, attend, i)
            if i < len(deepstack):
                feature = deepstack[i]
                x = x + feature if image_slots is None else x.index_add(0, image_slots, feature)
        return self.norm(x)

# SPDX-License-Identifier: Apache-2.0
"""The network's forward pass over batches, with gradients, on the modules that inference uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.model.network import Network
from alpamayo_rt.model.rotary import mrope_cos_sin, rotate
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.training.examples import IGNORED, Text

Cache = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values (B, kv heads, L, d) of each layer."""


def decoder_block(
    layer: Any,
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    past: tuple[torch.Tensor, torch.Tensor] | None,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One `DecoderLayer` over x (B, L, hidden): causal, or over `past` and own tokens under `mask`."""
    attention = layer.self_attn
    heads = (*x.shape[:2], -1, attention.head_dim)
    h = layer.input_layernorm(x)
    q = rotate(attention.q_norm(attention.q_proj(h).view(heads)).transpose(1, 2), cos, sin)
    k = rotate(attention.k_norm(attention.k_proj(h).view(heads)).transpose(1, 2), cos, sin)
    v = attention.v_proj(h).view(heads).transpose(1, 2)
    q, k = q.to(v.dtype), k.to(v.dtype)
    keys, values = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
    groups = q.shape[1] // k.shape[1]
    out = F.scaled_dot_product_attention(
        q,
        keys.repeat_interleave(groups, 1),
        values.repeat_interleave(groups, 1),
        attn_mask=mask,
        is_causal=past is None,
    )
    x = x + attention.o_proj(out.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.post_attention_layernorm(x)), k, v


class TrainingNetwork(nn.Module):
    """Losses of a network; holds no weights of its own."""

    def __init__(self, network: Network, config: ModelConfig, image_pad: int, compiled: bool):
        super().__init__()
        self.network, self.config, self.image_pad = network, config, image_pad
        self.block = torch.compile(decoder_block, dynamic=False) if compiled else decoder_block
        self.tower = torch.compile(network.vision, dynamic=False) if compiled else network.vision

    def vision(self, patches: torch.Tensor, rows: int, columns: int) -> VisionFeatures:
        """(images, patches, values) → features."""
        return self.tower(patches, rows, columns)

    def language(
        self, text: Text, features: VisionFeatures, shown: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Cache]:
        """Loss and accuracy of the next words, and the cache; `shown` (B, images) are those in the text."""
        language = self.network.language
        batch = len(text.ids)
        cos, sin = mrope_cos_sin(text.positions.transpose(0, 1).flatten(1), self.config.language)
        cos, sin = (t.view(batch, 1, -1, t.shape[-1]) for t in (cos, sin))
        slots = (text.ids == self.image_pad).flatten().nonzero()[:, 0]
        kept = shown.flatten().repeat_interleave(len(features.embeds) // shown.numel()).nonzero()[:, 0]
        embeds = language.embed_tokens(text.ids)
        x = embeds.flatten(0, 1).index_copy(0, slots, features.embeds[kept].to(embeds.dtype)).view_as(embeds)
        cache: Cache = []
        for i, layer in enumerate(language.layers):
            x, k, v = self.block(layer, x, cos, sin, None, None)
            cache.append((k, v))
            if i < len(features.deepstack):
                tap = features.deepstack[i][kept].to(x.dtype)
                x = x.flatten(0, 1).index_add(0, slots, tap).view_as(x)
        learned = text.targets != IGNORED
        logits = language.lm_head(language.norm(x[learned])).float()
        target = text.targets[learned]
        return F.cross_entropy(logits, target), (logits.argmax(-1) == target).float().mean(), cache

    @staticmethod
    def ends(text: Text) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each row (B,): the position of its last token, and its length."""
        rows = torch.arange(len(text.ids), device=text.ids.device)
        return text.positions[rows, 0, text.length - 1], text.length

    def flow(
        self,
        actions: torch.Tensor,
        noise: torch.Tensor,
        time: torch.Tensor,
        cache: Cache,
        positions: torch.Tensor,
        length: torch.Tensor,
    ) -> torch.Tensor:
        """Flow-matching loss: actions (B, W, 2) normalized end the flow, noise (B, W, 2) starts it.

        The others as in `velocity`.
        """
        state = torch.lerp(noise, actions, time[:, None, None])
        return F.mse_loss(self.velocity(state, time, cache, positions, length), actions - noise)

    def velocity(
        self,
        state: torch.Tensor,
        time: torch.Tensor,
        cache: Cache,
        positions: torch.Tensor,
        length: torch.Tensor,
    ) -> torch.Tensor:
        """The flow's velocity (B, W, 2).

        Args:
            state: (B, W, 2) normalized actions on their way.
            time: (B,) in [0, 1].
            cache: of the language model, which the expert reads up to `length`.
            positions: (B,) of the last token that it reads.
            length: (B,).
        """
        expert = self.network.expert
        batch, waypoints, _ = state.shape
        x = self._embed(state, time)
        steps = torch.arange(waypoints, device=x.device)
        at = (positions[:, None] + 1 + steps).flatten().expand(3, -1)
        cos, sin = mrope_cos_sin(at, self.config.expert)
        cos, sin = (t.view(batch, 1, waypoints, -1) for t in (cos, sin))
        seen = torch.arange(cache[0][0].shape[2], device=x.device) < length[:, None]
        mask = torch.cat([seen, seen.new_ones(batch, waypoints)], 1)[:, None, None]
        # As numbers and contiguous: attention kernels want it so, and it is made once for all layers.
        mask = torch.zeros(mask.shape, dtype=cache[0][0].dtype, device=x.device).masked_fill(~mask, -torch.inf)
        mask = mask.expand(-1, 1, waypoints, -1).contiguous()
        for layer, past in zip(expert.decoder.layers, cache, strict=True):
            x, _, _ = self.block(layer, x, cos, sin, past, mask)
        return expert.action_out_proj(expert.decoder.norm(x)).float()

    def _embed(self, state: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The action input projection with a time for each row of the batch."""
        projection = self.network.expert.action_in_proj
        features = [sinus(state[..., i]) for i, sinus in enumerate(projection.sinus)]
        when = projection.timestep_fourier_encoder(time)[:, None].expand(-1, state.shape[1], -1)
        return projection.norm(projection.encoder(torch.cat([*features, when], -1)))

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from alpamayo_rt.config import TextConfig
from alpamayo_rt.model.decoder import MLP, Decoder, RMSNorm
from alpamayo_rt.model.language import LanguageModel

CONFIG = TextConfig(3, 16, 4, 2, 8, 24, 1e-6, 1e4, (2, 1, 1), 30, 0)


def decoder() -> Decoder:
    torch.manual_seed(1)
    return Decoder(CONFIG).eval()


def rotary(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.linspace(0, 3, n)[:, None] * torch.linspace(1, 0.1, 4).repeat(2)
    return angles.cos(), angles.sin()


def own_group(sizes: list[int]):
    """Attention in which each group of tokens sees itself alone."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    mask = group[:, None] == group

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


def test_sequences_of_one_flat_batch_do_not_influence_each_other() -> None:
    model, sizes = decoder(), [3, 1, 5]
    x, (cos, sin) = torch.randn(9, 16), rotary(9)
    together = model(x, cos, sin, own_group(sizes))
    parts = zip(x.split(sizes), cos.split(sizes), sin.split(sizes), sizes, strict=True)
    alone = [model(p, c, s, own_group([n])) for p, c, s, n in parts]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_layer_equals_the_formula_written_out() -> None:
    model = decoder()
    layer, attention = model.layers[0], model.layers[0].self_attn
    x, (cos, sin) = torch.randn(4, 16), rotary(4)

    def norm(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def turned(values: torch.Tensor) -> torch.Tensor:
        return values * cos + torch.cat([-values[..., 4:], values[..., :4]], -1) * sin

    h = norm(x, layer.input_layernorm.weight)
    heads = []
    for head in range(4):
        q = (h @ attention.q_proj.weight.T)[:, 8 * head : 8 * head + 8]
        kv = slice(8 * (head // 2), 8 * (head // 2) + 8)
        k, v = (h @ attention.k_proj.weight.T)[:, kv], (h @ attention.v_proj.weight.T)[:, kv]
        q, k = turned(norm(q, attention.q_norm.weight)), turned(norm(k, attention.k_norm.weight))
        heads.append((q @ k.T / math.sqrt(8)).softmax(-1) @ v)
    y = x + torch.cat(heads, -1) @ attention.o_proj.weight.T
    h = norm(y, layer.post_attention_layernorm.weight)
    gate = h @ layer.mlp.gate_proj.weight.T
    up = h @ layer.mlp.up_proj.weight.T
    expected = y + (gate * gate.sigmoid() * up) @ layer.mlp.down_proj.weight.T
    assert torch.allclose(layer(x, cos, sin, own_group([4]), 0), expected, atol=1e-5)


def test_deepstack_feature_is_added_after_its_layer_at_image_slots_only() -> None:
    model = decoder()
    x, (cos, sin), slots = torch.randn(5, 16), rotary(5), torch.tensor([1, 3])
    features = (torch.randn(2, 16), torch.randn(2, 16))
    hidden = x
    for i, layer in enumerate(model.layers):
        hidden = layer(hidden, cos, sin, own_group([5]), i)
        if i < 2:
            hidden = hidden.clone()
            for slot, feature in zip(slots, features[i], strict=True):
                hidden[slot] += feature
    assert torch.allclose(model(x, cos, sin, own_group([5]), slots, features), model.norm(hidden), atol=1e-6)


def test_layers_are_told_their_own_number() -> None:
    seen: list[int] = []

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(layer)
        return q

    decoder()(torch.randn(2, 16), *rotary(2), attend)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_squares_in_float32(dtype: torch.dtype) -> None:
    norm = RMSNorm(4, 1e-6).to(dtype)
    # 300² is beyond float16, and 1e-4² below it.
    out = norm(torch.tensor([[300.0, 300, 300, 300], [1e-2, 1e-2, 1e-2, 1e-2]], dtype=dtype))
    assert out.dtype == dtype
    assert out.float().flatten().tolist() == pytest.approx([1] * 8, abs=1e-2)


def test_swiglu_gates_with_silu() -> None:
    mlp = MLP(CONFIG)
    x = torch.randn(3, 16)
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    assert torch.allclose(mlp(x), mlp.down_proj(gate * gate.sigmoid() * up), atol=1e-6)


def test_image_tokens_replace_embeddings_in_their_slots() -> None:
    language = LanguageModel(CONFIG)
    ids, slots, images = torch.tensor([3, 4, 5, 6]), torch.tensor([1, 2]), torch.randn(2, 16)
    embedded = language.embed(ids, slots, images)
    assert torch.equal(embedded[1:3], images)
    assert torch.equal(embedded[[0, 3]], language.embed_tokens.weight[[3, 6]])
    assert torch.equal(language.embed_tokens(ids)[1], language.embed_tokens.weight[4])


def test_logits_are_float32_in_any_type() -> None:
    language = LanguageModel(CONFIG).bfloat16()
    assert language.logits(torch.randn(2, 16, dtype=torch.bfloat16)).dtype == torch.float32

# SPDX-License-Identifier: Apache-2.0
"""Attention over a cache with a shared prefix: one token a sequence, or the expert's tokens of each candidate.

One layer's cache is a pair of views (kv heads, capacity, head dim) whose last dimension is contiguous, in
bfloat16, float16 or float32. The prompt lies in slots [0, prefix_length), the tokens of sequence r in slots
[tail_start + r · tail_room, … + tail_length[r]). What other slots hold does not matter, be it NaN. Head h reads
key-value head h // (heads / kv heads).

Lengths are read from the device, nothing is allocated and nothing read back, so that one captured launch serves
every length. On a GPU (and everywhere under TRITON_INTERPRET=1) the operations are Triton kernels; elsewhere,
and without Triton, their torch twins.
"""

from __future__ import annotations

import torch

from alpamayo_rt.kernels.attention.scratch import DecodeScratch, ExpertScratch
from alpamayo_rt.kernels.dispatch import uses_triton
from alpamayo_rt.kernels.layers.decoder import qk_norm_rope_twin


def decode_attention_from_qkv(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_length: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    scratch: DecodeScratch,
) -> None:
    """Norm, rotate and cache one new token a sequence; it attends to the prefix and to its own tail.

    What `layers.decoder.qk_norm_rope` does, with its rounding, and then attention, in one launch. The result
    does not depend on the order in which the programs run.

    Args:
        qkv: (R, (heads + 2 · kv heads) · d), q before k before v, a view whose last dimension is contiguous.
        q_weight: (d,), as is k_weight: of the norms.
        k_weight: see q_weight.
        eps: of the norms.
        cos: (R, d / 2) float32, as is sin: rotary positions; the second half of a head has the same.
        sin: see cos.
        slots: (R,) int64, where each token's key and value go: into its own tail, or where no row looks. A row
            sees its own token if the slot lies within its `tail_length`.
        keys: (kv heads, capacity, d), see above.
        values: likewise.
        prefix_length: () int32 or int64.
        tail_start: first slot of the first tail.
        tail_room: slots of a tail.
        tail_length: (R,) int32 or int64, the tokens that a row sees of its tail, its own new one included. A
            row with 0 sees the prefix alone; one that sees nothing at all gets zeros.
        scale: of the products, 1 / √d.
        out: (R, heads, d) contiguous.
        scratch: of R rows, heads and d.
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.attention import triton_decode

        run = triton_decode.decode_attention_from_qkv
    else:
        run = decode_attention_from_qkv_twin
    run(
        qkv, q_weight, k_weight, eps, cos, sin, slots, keys, values, prefix_length, tail_start, tail_room,
        tail_length, scale, out, scratch,
    )  # fmt: skip


def decode_attention_from_qkv_twin(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_length: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    scratch: DecodeScratch | None = None,
) -> None:
    """See `decode_attention_from_qkv`."""
    q = torch.empty_like(out, dtype=qkv.dtype)
    qk_norm_rope_twin(qkv, q_weight, k_weight, eps, cos, sin, slots, q, keys, values)
    decode_attention_twin(q, keys, values, prefix_length, tail_start, tail_room, tail_length, scale, out)


def decode_attention_twin(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_length: torch.Tensor,
    scale: float,
    out: torch.Tensor,
) -> None:
    """The second half of `decode_attention_from_qkv`, from rotated q (R, heads, d); in float64 when q is."""
    starts = tail_start + tail_room * torch.arange(len(q), device=q.device)
    seen = _seen_slots(keys.shape[1], prefix_length, starts, tail_length)
    own = keys[:, :0].expand(len(q), -1, -1, -1)
    out.copy_(_attend(q[:, None], keys, values, seen, own, own, scale)[:, 0])


def expert_attention(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_sequence: torch.Tensor,
    tail_length: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    scratch: ExpertScratch,
) -> None:
    """All tokens of a candidate attend to the prefix, to the tail that it reads, and to each other.

    Args:
        q: (K, W, heads, d), a view whose last dimension is contiguous.
        keys: (kv heads, capacity, d), see above.
        values: likewise.
        prefix_length: () int32 or int64.
        tail_start: first slot of the first tail.
        tail_room: slots of a tail.
        tail_sequence: (K,) int32 or int64, whose tail each candidate reads.
        tail_length: (K,) int32 or int64, how many of its tokens.
        own_keys: (K, W, kv heads, d), a view whose last dimension is contiguous.
        own_values: likewise.
        scale: of the products, 1 / √d.
        out: (K, W, heads, d) contiguous.
        scratch: of K candidates, W, heads and d.
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.attention import choice

        run = choice.expert_kernel(q, keys, values, own_keys, own_values, scratch)
    else:
        run = expert_attention_twin
    run(
        q, keys, values, prefix_length, tail_start, tail_room, tail_sequence, tail_length,
        own_keys, own_values, scale, out, scratch,
    )  # fmt: skip


def expert_attention_twin(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_length: torch.Tensor,
    tail_start: int,
    tail_room: int,
    tail_sequence: torch.Tensor,
    tail_length: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    scratch: ExpertScratch | None = None,
) -> None:
    """See `expert_attention`; in float64 when q is."""
    starts = tail_start + tail_room * tail_sequence
    seen = _seen_slots(keys.shape[1], prefix_length, starts, tail_length)
    own_keys, own_values = own_keys.transpose(1, 2), own_values.transpose(1, 2)
    out.copy_(_attend(q, keys, values, seen, own_keys, own_values, scale))


def _seen_slots(
    capacity: int, prefix_length: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """(R, capacity) bool."""
    slot = torch.arange(capacity, device=starts.device)
    first = starts[:, None]
    return (slot < prefix_length) | ((slot >= first) & (slot < first + lengths[:, None]))


def _attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """(R, W, heads, d) over cache slots `seen` (R, capacity) and own tokens (R, kv heads, n, d)."""
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    rows, waypoints, heads, _ = q.shape
    used = seen.any(0)[:, None]
    keys, values = (torch.where(used, part, 0).to(exact) for part in (keys, values))
    grouped = q.to(exact).unflatten(2, (len(keys), -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    scores = (grouped @ keys.transpose(-1, -2)).masked_fill(~seen[:, None, None], -torch.inf)
    own_scores = grouped @ own_keys.to(exact).transpose(-1, -2)
    # A row that sees nothing has weights 0 / 0.
    weights = (torch.cat([scores, own_scores], -1) * scale).softmax(-1).nan_to_num(0.0)
    cached = weights[..., : seen.shape[1]] @ values
    own = weights[..., seen.shape[1] :] @ own_values.to(exact)
    mixed = (cached + own).unflatten(2, (-1, waypoints)).permute(0, 3, 1, 2, 4)
    return mixed.reshape(rows, waypoints, heads, -1)

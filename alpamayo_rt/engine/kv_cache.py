# SPDX-License-Identifier: Apache-2.0
"""One cache for a prompt and all sequences that continue it.

Tokens lie in slots in the order in which they were computed: first the prompt, then whatever the sequences
wrote, mixed. Each slot knows its owner (the prompt, or one sequence) and its order within that sequence, and
from these follow all attention masks. So a prompt is stored once however many candidates read it, and nothing
is ever copied per candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpamayo_rt.config import TextConfig
from alpamayo_rt.errors import InputError

PROMPT = -1


@dataclass
class KvCache:
    """Keys and values of all layers.

    Attributes:
        keys: (layers, kv heads, capacity, head dim), after norm and rotary positions.
        values: the same shape.
        owner: (capacity,) int64: PROMPT or the number of a sequence.
        order: (capacity,) int64: index of the token in its own sequence, prompt included.
        prompt_length: tokens of the prompt.
        rope_delta: a token at order n has position n + rope_delta.
        length: slots in use.
    """

    keys: torch.Tensor
    values: torch.Tensor
    owner: torch.Tensor
    order: torch.Tensor
    prompt_length: int
    rope_delta: int
    length: int = 0

    @classmethod
    def allocate(
        cls,
        config: TextConfig,
        capacity: int,
        prompt_length: int,
        rope_delta: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> KvCache:
        """An empty cache with room for `capacity` tokens."""
        shape = (config.num_layers, 2, config.num_kv_heads, capacity, config.head_dim)
        # Zeros, not garbage: slots that no mask admits are still multiplied by a weight of zero.
        planes = torch.zeros(shape, device=device, dtype=dtype)
        return cls(
            keys=planes[:, 0],
            values=planes[:, 1],
            owner=torch.full((capacity,), PROMPT, device=device),
            order=torch.arange(capacity, device=device),
            prompt_length=prompt_length,
            rope_delta=rope_delta,
        )

    def planes(self) -> torch.Tensor | None:
        """(2 · layers, 1, kv heads, capacity, head dim), each layer's keys before its values, without a copy.

        None where keys and values do not lie that way, as an engine's own cache may not.
        """
        layers, heads, capacity, dim = self.keys.shape
        plane = heads * capacity * dim
        lying = (2 * plane, capacity * dim, dim, 1)
        behind = self.keys.data_ptr() + plane * self.keys.element_size()
        if self.keys.stride() != lying or self.values.stride() != lying or self.values.data_ptr() != behind:
            return None
        return self.keys.as_strided((2 * layers, 1, heads, capacity, dim), (plane, plane, *lying[1:]))

    def claim(self, owner: torch.Tensor, order: torch.Tensor) -> slice:
        """Take the next slots for tokens of `owner` (N,) at `order` (N,)."""
        slots = slice(self.length, self.length + len(owner))
        if slots.stop > len(self.owner):
            raise InputError(f"request: needs {slots.stop} cache slots, {len(self.owner)} were set aside")
        self.owner[slots], self.order[slots] = owner, order
        self.length = slots.stop
        return slots

    def visible(self, owner: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """(N, length) bool: the slots of the prompt and of `owner` (N,) whose order is under `below` (N,)."""
        own, order = self.owner[: self.length], self.order[: self.length]
        mine = (own == PROMPT) | (own == owner[:, None])
        return mine & (order < below[:, None])

    def sequence_slots(self, sequence: int) -> torch.Tensor:
        """(S,) slots of the prompt and one sequence, in their order."""
        own = self.owner[: self.length]
        return ((own == PROMPT) | (own == sequence)).nonzero()[:, 0]

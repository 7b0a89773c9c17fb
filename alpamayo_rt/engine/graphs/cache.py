# SPDX-License-Identifier: Apache-2.0
"""The cache of the fast engine: one prompt, then a tail for each sequence, at fixed places.

slots      0 … prompt_length − 1 | … tail_start | tail of sequence 0 | tail of sequence 1 | …
           the prompt            | not used     | tail_room slots    | tail_room slots    |

The kernels read it as it lies. `KvCache`'s columns `owner` and `order` describe the same to everything that is
not a kernel (hand-off, dumps, comparisons); slots that are not used belong to nobody there.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.kv_cache import PROMPT, KvCache
from alpamayo_rt.errors import EngineError, InputError

NOBODY = -2
_FAR = 2**62
_GRAIN = 64
_SETS = 4


class SegmentedCache(KvCache):
    """A prompt and its tails in a `CacheSet`.

    `owner` and `order` are made when somebody looks: kernels do not, and no request has to wait for them.

    Attributes:
        home: the buffers.
        rows: sequences that have tails; 0 before the first.
        tail_room: slots of a tail.
        tail_length: tokens in each tail, as far as the host knows them.
    """

    def __init__(self, home: CacheSet, prompt_length: int, rope_delta: int):
        self.keys, self.values = home.planes[:, 0], home.planes[:, 1]
        self.prompt_length, self.rope_delta, self.length = prompt_length, rope_delta, prompt_length
        self.home, self.rows, self.tail_room = home, 0, 0
        self.tail_length: list[int] = []
        self._columns: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def owner(self) -> torch.Tensor:  # type: ignore[override]
        """See `KvCache`; not to be written."""
        return self._described()[0]

    @property
    def order(self) -> torch.Tensor:  # type: ignore[override]
        """See `KvCache`; not to be written."""
        return self._described()[1]

    def divide(self, rows: int, most_tokens: int) -> None:
        """Give `rows` sequences a tail each, for so many tokens at most."""
        room = up(most_tokens + 1)  # one spare slot, for rows that have ended
        if self.rows == rows and self.tail_room >= room:
            return
        if any(self.tail_length):
            raise EngineError(f"cache: holds {self.rows} sequences already, expected no other division")
        slots = self.home.capacity - self.home.tail_start
        if rows * room > slots:
            raise InputError(
                f"request: {rows} sequences of {most_tokens} tokens need {rows * room} cache slots, "
                f"{slots} were set aside"
            )
        self.rows, self.tail_room, self.tail_length = rows, room, [0] * rows

    def hold(self, tail_length: Sequence[int]) -> None:
        """Take note of how many tokens each tail holds."""
        self.tail_length, self._columns = list(tail_length), None
        self.length = self.home.tail_start + self.rows * self.tail_room

    def grow(self, sequences: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Take note of tokens behind the tails of some sequences."""
        held = list(self.tail_length)
        for sequence, row in zip(sequences, tokens, strict=True):
            held[sequence] += len(row)
        self.hold(held)

    def _described(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._columns is None:
            owner = torch.full((self.home.capacity,), NOBODY)
            order = torch.full((self.home.capacity,), _FAR)
            firsts = range(self.home.tail_start, self.home.capacity, self.tail_room or self.home.capacity)
            parts = [(PROMPT, 0, 0, self.prompt_length)]
            parts += [
                (sequence, first, self.prompt_length, held)
                for sequence, (first, held) in enumerate(zip(firsts, self.tail_length, strict=False))
            ]
            for name, slot, first, count in parts:
                owner[slot : slot + count] = name
                order[slot : slot + count] = torch.arange(first, first + count)
            device = self.keys.device
            self._columns = owner.to(device), order.to(device)
        return self._columns


class CacheSet:
    """Buffers for one prompt with its tails.

    Attributes:
        number: which of the engine's sets it is.
        planes: (layers, 2, kv heads, capacity, d), each layer's keys before its values.
        tail_start: slots for the prompt.
        capacity: all slots.
        prefix_length: () int64 on the device, tokens of the prompt.
        logits: (1, V) float32 at the prompt's last position.
    """

    def __init__(
        self, number: int, config: TextConfig, prompt: int, tails: int, device: torch.device, dtype: torch.dtype
    ):
        self.number, self.tail_start, self.capacity = number, prompt, prompt + tails
        shape = (config.num_layers, 2, config.num_kv_heads, self.capacity, config.head_dim)
        # Zeros, not garbage: what is masked is still multiplied by a weight of zero in the eager paths.
        self.planes = torch.zeros(shape, device=device, dtype=dtype)
        self.prefix_length = torch.zeros((), dtype=torch.int64, device=device)
        self.logits = torch.zeros(1, config.vocab_size, device=device)
        self._current: weakref.ref[SegmentedCache] | None = None

    @property
    def free(self) -> bool:
        """Whether nobody holds the cache that was made of it last."""
        return self._current is None or self._current() is None

    def drop(self) -> None:
        """Give the memory back before a larger set is made; graphs that know this one are not replayed."""
        self.planes = self.planes.new_empty(0)

    def begin(self, prompt_length: int, rope_delta: int) -> SegmentedCache:
        """A cache that holds a prompt."""
        self.prefix_length.fill_(prompt_length)
        cache = SegmentedCache(self, prompt_length, rope_delta)
        self._current = weakref.ref(cache)
        return cache


class CacheSets:
    """The sets of an engine: the first that nobody holds is used again; guidance needs two."""

    def __init__(self, config: TextConfig, most_slots: int, device: torch.device, dtype: torch.dtype):
        self._config, self._most, self._device, self._dtype = config, most_slots, device, dtype
        self._sets: list[CacheSet] = []

    def take(self, prompt: int, tails: int) -> tuple[CacheSet, bool]:
        """A free set with room for a prompt and its tails, and whether its buffers are new.

        Raises:
            InputError: the request is longer than the engine's capacity.
        """
        if prompt + tails > self._most:
            raise InputError(
                f"request: {prompt} prompt tokens and {tails} to follow are {prompt + tails} cache slots, "
                f"the engine's capacity is {self._most}"
            )
        free = next((s for s in self._sets if s.free), None)
        if free is None:
            if len(self._sets) == _SETS:
                raise EngineError(
                    f"cache: {_SETS} are held at once, expected fewer; a result kept with its trace holds one"
                )
        elif free.tail_start >= prompt and free.capacity - free.tail_start >= tails:
            return free, False
        else:
            prompt, tails = max(prompt, free.tail_start), max(tails, free.capacity - free.tail_start)
            free.drop()
        number = len(self._sets) if free is None else free.number
        made = CacheSet(number, self._config, up(prompt, 256), up(tails, 256), self._device, self._dtype)
        self._sets[number : number + 1] = [made]
        return made, True


def up(n: int, grain: int = _GRAIN) -> int:
    """The next multiple of `grain`."""
    return -(-n // grain) * grain

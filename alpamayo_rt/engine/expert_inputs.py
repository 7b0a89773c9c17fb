# SPDX-License-Identifier: Apache-2.0
"""A hand-off becomes an expert session's inputs, in buffers that stay where they are.

Which inputs these are is the session's contract (`engine/bindings.py`). Sizes that change from request to
request are rounded up to buckets, so that few sets of shapes occur and each can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from alpamayo_rt.engine.bindings import FUSED
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.engine.session import Binding, Session
from alpamayo_rt.errors import InputError
from alpamayo_rt.kernels.contract.operations import build_position_ids, repeat_cache

CACHE_BUCKET, TAIL_BUCKET = 64, 32
HIDDEN = -1e30
"""Added to the score of what must not be seen; finite, so that a row that sees nothing does not become NaN."""


class Limit(NamedTuple):
    """The sizes of a dimension that a session takes."""

    low: int
    high: int


@dataclass
class Arena:
    """Named buffers on one device, kept from request to request and replaced by larger ones when needed.

    Attributes:
        device: where they are.
        version: grows when any buffer is replaced, so that nobody goes on using its address.
    """

    device: torch.device
    version: int = 0
    _flat: dict[str, torch.Tensor] = field(default_factory=dict)

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor at the start of the buffer of this name; its content is what it was."""
        count = 1
        for size in shape:
            count *= size
        flat = self._flat.get(name)
        if flat is None or len(flat) < count or flat.dtype != dtype:
            self._flat.pop(name, None)  # before the larger one is there
            self.version += 1
            flat = self._flat[name] = torch.zeros(count, dtype=dtype, device=self.device)
        return flat[:count].view(shape)


class ExpertInputs:
    """Fills the inputs that stay the same over all steps; one object for each branch of a guided flow."""

    def __init__(self, session: Session, contract: str, limits: Mapping[str, Limit], arena: Arena, branch: str):
        self._session, self._contract, self._limits = session, contract, limits
        self._arena, self._branch = arena, branch
        self._bindings = {binding.name: binding for binding in session.inputs}

    def fill(self, hand_off: HandOff) -> dict[str, torch.Tensor]:
        """Everything but the noisy action and the time.

        Raises:
            InputError: more candidates or cached positions than the session was built for.
        """
        candidates, waypoints = hand_off.position_ids.shape[1:]
        self.check("B", candidates, "candidates")
        positions = self._take("position_ids", (3, candidates, waypoints))
        build_position_ids(hand_off.position_ids[0, :, 0].contiguous(), positions)
        if self._contract == FUSED:
            return {"position_ids": positions, **self._repeated(hand_off, waypoints)}
        return {"position_ids": positions, **self._shared(hand_off)}

    def check(self, name: str, size: int, what: str) -> None:
        """Refuse a size that the session was not built for."""
        limit = self._limits.get(name)
        if limit is not None and size > limit.high:
            raise InputError(
                f"request: {size} {what}, {self._session.path} was built for at most {limit.high} ({name}); "
                f"build it with --profile {name}=MIN:OPT:MAX for more"
            )

    def _repeated(self, hand_off: HandOff, waypoints: int) -> dict[str, torch.Tensor]:
        """The cache once for every candidate in float32, and who may see what of it."""
        cache, (candidates, length) = hand_off.cache, hand_off.attended.shape
        size = self._bucket("S", length, CACHE_BUCKET)
        layers, heads, _, dim = cache.keys.shape
        mask = self._take("attention_mask", (candidates, 1, waypoints, size + waypoints))
        mask[..., :length] = torch.where(hand_off.attended, 0.0, HIDDEN)[:, None, None]
        mask[..., length:size] = HIDDEN
        mask[..., size:] = 0
        repeated = self._take("kv_cache", (2 * layers, candidates, heads, size, dim))
        repeat_cache(cache.keys, cache.values, repeated, self._number(length))
        return {"attention_mask": mask, "kv_cache": repeated}

    def _shared(self, hand_off: HandOff) -> dict[str, torch.Tensor]:
        """What all candidates see from the first slot on, once; what each sees beyond it, for each."""
        cache, attended = hand_off.cache, hand_off.attended
        candidates = len(attended)
        common = int(attended.all(0).int().cumprod(0).sum())
        beyond = attended[:, common:]
        counts = beyond.sum(1)
        prefix_length = self._take("prefix_length", (1,))
        prefix_length.fill_(common)
        tail_length = self._take("tail_length", (candidates,))
        tail_length.copy_(counts)
        layers, heads, _, dim = cache.keys.shape
        longest = int(counts.max())
        size = self._bucket("T", longest, TAIL_BUCKET) if longest else self._limits.get("T", Limit(1, 1)).low
        tail = self._take("kv_tail", (2 * layers, candidates, heads, max(size, 1), dim))
        tail.zero_()
        # Visible slots first, in their order; what follows them is hidden by the length.
        order = torch.argsort(~beyond, dim=1, stable=True)[:, :longest] + common
        planes = tail.view(layers, 2, *tail.shape[1:])
        for candidate, slots in enumerate(order):
            for part, source in enumerate((cache.keys, cache.values)):
                planes[:, part, candidate, :, :longest] = source[:, :, slots].to(tail.dtype)
        return {
            "kv_prefix": self._prefix(hand_off, common),
            "prefix_length": prefix_length,
            "kv_tail": tail,
            "tail_length": tail_length,
        }

    def _prefix(self, hand_off: HandOff, common: int) -> torch.Tensor:
        """The language model's cache itself where the session can read it as it lies, else a copy."""
        cache, wanted = hand_off.cache, self._bindings["kv_prefix"]
        layers, heads, capacity, dim = cache.keys.shape
        limit = self._limits.get("P")
        planes = cache.planes()
        fits = limit is None or limit.low <= capacity <= limit.high
        if planes is not None and planes.dtype == wanted.dtype and fits:
            return planes
        size = self._bucket("P", common, CACHE_BUCKET)
        copy = self._take("kv_prefix", (2 * layers, 1, heads, size, dim))
        repeat_cache(cache.keys, cache.values, copy, self._number(common))
        return copy

    def _bucket(self, name: str, size: int, step: int) -> int:
        """The next multiple of `step`, within what the session takes."""
        self.check(name, size, "cached positions")
        rounded = max(-(-size // step) * step, step)
        limit = self._limits.get(name)
        return rounded if limit is None else min(max(rounded, limit.low), limit.high)

    def _take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        binding: Binding = self._bindings[name]
        return self._arena.take(f"{self._branch}.{name}", shape, binding.dtype)

    def _number(self, value: int) -> torch.Tensor:
        number = self._arena.take(f"{self._branch}.length", (1,), torch.int64)
        number.fill_(value)
        return number[0]

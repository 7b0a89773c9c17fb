# SPDX-License-Identifier: Apache-2.0
"""What candidates read of a cache, in the form that the attention kernel takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.graphs.cache import SegmentedCache
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.model.rotary import mrope_cos_sin


@dataclass(frozen=True)
class Segments:
    """A prefix for all K candidates, and some of a tail for each; all tensors on the device.

    Attributes:
        keys: (layers, kv heads, capacity, d), as are values.
        values: see keys.
        prefix_length: () int64.
        tail_start: first slot of the first tail.
        tail_room: slots of a tail.
        tail_sequence: (K,) int64, whose tail each candidate reads.
        tail_length: (K,) int64, how many of its tokens.
        cos: (K · W, d / 2) float32 rotary positions of the candidates' own tokens, as is sin.
        sin: see cos.
    """

    keys: torch.Tensor
    values: torch.Tensor
    prefix_length: torch.Tensor
    tail_start: int
    tail_room: int
    tail_sequence: torch.Tensor
    tail_length: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def place(self, position_ids: torch.Tensor, config: TextConfig) -> None:
        """Set the rotary positions from ids (3, K, W)."""
        for target, angles in zip(
            (self.cos, self.sin), mrope_cos_sin(position_ids.flatten(1), config), strict=True
        ):
            target.copy_(angles[:, : target.shape[1]])

    def place_text(self, positions: torch.Tensor, frequencies: torch.Tensor) -> None:
        """The same from positions (K, W) whose three components are equal, and frequencies (d / 2,)."""
        angles = positions.flatten()[:, None] * frequencies
        torch.cos(angles, out=self.cos)
        torch.sin(angles, out=self.sin)

    def take(self, hand_off: HandOff, config: TextConfig) -> None:
        """Set what a hand-off over this very cache says."""
        cache = hand_off.cache
        assert isinstance(cache, SegmentedCache)
        self.tail_sequence.copy_(hand_off.sequences)
        held = torch.tensor(cache.tail_length or [0], device=self.tail_length.device)
        said = hand_off.offsets - cache.prompt_length
        self.tail_length.copy_(torch.minimum(said, held[hand_off.sequences]))
        self.place(hand_off.position_ids, config)


def of_cache(cache: SegmentedCache, candidates: int, waypoints: int, config: TextConfig) -> Segments:
    """Segments of the engine's own cache, to be filled by `take` or from the state of a rollout."""
    device, home = cache.keys.device, cache.home
    angles = torch.zeros(2, candidates * waypoints, config.head_dim // 2, device=device)
    whole = torch.zeros(2, candidates, dtype=torch.int64, device=device)
    return Segments(
        home.planes[:, 0],
        home.planes[:, 1],
        home.prefix_length,
        home.tail_start,
        cache.tail_room,
        *whole,
        *angles,
    )


def gathered(hand_off: HandOff, config: TextConfig) -> Segments:
    """Segments of any other cache: what each candidate sees, copied into a tail of its own.

    Candidates that see the same share one.
    """
    cache, seen = hand_off.cache, hand_off.attended
    rows, tails = torch.unique(seen, dim=0, return_inverse=True)
    lengths = rows.sum(1)
    room = max(int(lengths.max()), 1)
    layers, kv, _, d = cache.keys.shape
    planes = cache.keys.new_zeros(2, layers, kv, len(rows) * room, d)
    for tail, row in enumerate(rows):
        slots = row.nonzero()[:, 0]
        for plane, source in zip(planes, (cache.keys, cache.values), strict=True):
            plane[:, :, tail * room : tail * room + len(slots)] = source[:, :, slots]
    k, w = hand_off.position_ids.shape[1:]
    (keys, values), (cos, sin) = planes, torch.zeros(2, k * w, d // 2, device=planes.device)
    nothing = torch.zeros((), dtype=torch.int64, device=planes.device)
    made = Segments(keys, values, nothing, 0, room, tails, lengths[tails], cos, sin)
    made.place(hand_off.position_ids, config)
    return made

# SPDX-License-Identifier: Apache-2.0
"""Sizes of released checkpoints, to imitate one with random weights where the real ones are not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderSizes:
    """Of a language model or an expert; both have 8 key-value heads of 128 in every release so far."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    kv_heads: int = 8
    head_dim: int = 128


@dataclass(frozen=True)
class ReleasedSizes:
    """What distinguishes one release from another.

    Attributes:
        language: the language model; its width is also what the vision tower gives.
        expert: the action expert.
        vocabulary: rows of embeddings and head.
        cameras: of the usual request, four frames each.
        text_tokens: of the usual driving prompt: all that are no image tokens.
        history_tokens: of those, how many tell the past.
        nested: whether its config.json holds every part's config in full.
    """

    language: DecoderSizes
    expert: DecoderSizes
    vocabulary: int
    cameras: tuple[int, ...]
    text_tokens: int
    history_tokens: int = 48
    nested: bool = False


_LANGUAGE_8B, _EXPERT_8B = DecoderSizes(36, 4096, 32, 12288), DecoderSizes(36, 2048, 16, 8256)
SIZES_10B = ReleasedSizes(_LANGUAGE_8B, _EXPERT_8B, 155_697, (0, 1, 2, 6), 239)
"""3,119 prompt tokens with 16 images of 180."""
SIZES_10B_UNLABELLED = ReleasedSizes(_LANGUAGE_8B, _EXPERT_8B, 155_697, (0, 1, 2, 6), 155)
"""The same without labels before the images, about 3,035 prompt tokens."""
SIZES_36B = ReleasedSizes(
    DecoderSizes(64, 5120, 64, 25600),
    DecoderSizes(64, 1536, 16, 6144),
    155_776,
    (0, 1, 2, 3, 5, 6),
    260,
    45,
    True,
)
"""About 4,580 prompt tokens with 24 images of 180."""

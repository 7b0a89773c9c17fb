# SPDX-License-Identifier: Apache-2.0
"""A whole `Model` of a family's released sizes: random weights from `bench`, and a stand-in for its tokenizer.

The released tokenizer comes with the gated weights. What is timed needs none: this one gives every special
token its released id and every four other characters one id, so that a prompt is about as long as a real one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from alpamayo_rt import Model
from alpamayo_rt.bench import released
from alpamayo_rt.bench.subject import make_random_subject
from alpamayo_rt.families import Family
from alpamayo_rt.loading import find_device

_SPECIAL = re.compile(r"(<\|\w+\|>|<i\d+>)")
_END_OF_TEXT, _TURN_START, _ORDINARY = 151_643, 151_644, 150_000


class StandInTokenizer:
    """Text ↔ ids as `PromptTokenizer` does it, without its words."""

    def __init__(self, family: Family):
        names = [f"<|{name}|>" for name in family.special_tokens]
        self._ids = {name: released.special_id(family, name.strip("<|>")) for name in names}
        self._ids |= {
            "<|endoftext|>": _END_OF_TEXT, "<|im_start|>": _TURN_START, "<|im_end|>": released.END_OF_TURN,
            "<|vision_start|>": released.VISION_START, "<|vision_end|>": released.VISION_END,
            "<|image_pad|>": released.IMAGE_PAD,
        }  # fmt: skip
        self._names = {number: name for name, number in self._ids.items()}
        self.image_pad, self.padding = released.IMAGE_PAD, _END_OF_TEXT
        self.history, self.future_start = self._ids["<|traj_history|>"], self._ids["<|traj_future_start|>"]
        self.reserved = tuple(self._ids)

    def id(self, token: str) -> int:
        """The id of one token."""
        return self._ids[token]

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        out: list[int] = []
        for piece in _SPECIAL.split(text):
            if piece in self._ids:
                out.append(self._ids[piece])
            else:
                out += [zlib.crc32(piece[i : i + 4].encode()) % _ORDINARY for i in range(0, len(piece), 4)]
        return out

    def decode(self, ids: Sequence[int]) -> str:
        """A text of ids."""
        return "".join(self._names.get(number, f" w{number}") for number in ids)

    def stray_token(self, text: str) -> str | None:
        """The first token of the model's own that a text spells."""
        found = _SPECIAL.search(text)
        return found.group() if found else None


def released_model(
    family: Family, engine: str, precision: str, device: str = "auto", say: Callable[[str], None] = print
) -> Model:
    """A model that runs like the released one and says nothing sensible."""
    where = find_device(device)
    subject = make_random_subject(family.model_type, precision, where, 0, say)
    checkpoint: Any = SimpleNamespace(
        name="random", config=subject.config, fingerprint=lambda: "0" * 16, plan=None
    )
    tokenizer: Any = StandInTokenizer(family)
    torch.cuda.empty_cache()
    return Model(checkpoint, subject.engine(engine, where), tokenizer, subject.unicycle)

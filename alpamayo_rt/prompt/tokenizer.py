# SPDX-License-Identifier: Apache-2.0
"""The backbone's tokenizer with the model's own vocabulary added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from alpamayo_rt.config import ModelConfig, read_json
from alpamayo_rt.errors import ModelError

IMAGE_PAD = "<|image_pad|>"


class PromptTokenizer:
    """Text ↔ ids, and the ids that the prompt and the stop rule need by name.

    Raises:
        ModelError: the tokenizer is missing, or the ids of the added tokens are not those of the config.
    """

    def __init__(self, backbone: Path, config: ModelConfig):
        self._tokenizer = _load(backbone)
        trajectory = [f"<i{n}>" for n in range(config.traj_vocab_size)]
        self._tokenizer.add_tokens([AddedToken(t, normalized=True) for t in trajectory])
        special = [f"<|{name}|>" for name in config.family.special_tokens]
        self._tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
        self._check(backbone, config, special)
        self.image_pad = self.id(IMAGE_PAD)
        self.padding = self.id("<|endoftext|>")
        self.history = self.id("<|traj_history|>")
        self.future = self.id("<|traj_future|>")
        self.future_start = self.id("<|traj_future_start|>")
        self.reserved = tuple(token.content for token in self._tokenizer.get_added_tokens_decoder().values())
        self._reserved_pattern = re.compile(r"<\|\w+\|>|<i\d+>")

    def id(self, token: str) -> int:
        """The id of one token."""
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ModelError(f"tokenizer: has no token {token}, expected that of a Qwen3-VL backbone")
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens in it recognized."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens kept."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def stray_token(self, text: str) -> str | None:
        """The first token of the model's own that a user's text spells, if any."""
        match = self._reserved_pattern.search(text)
        if match:
            return match.group()
        return next((token for token in self.reserved if token in text), None)

    def _check(self, backbone: Path, config: ModelConfig, special: list[str]) -> None:
        expected = {"<i0>": config.traj_token_start}
        expected |= {f"<|traj_{name}|>": value for name, value in config.traj_token_ids.items()}
        for token, wanted in expected.items():
            found = self._tokenizer.token_to_id(token)
            if found != wanted:
                raise ModelError(
                    f"{backbone}: token {token} gets id {found}, the checkpoint's config says {wanted}; "
                    "is this its backbone?"
                )
        size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if size > config.language.vocab_size:
            raise ModelError(
                f"{backbone}: {size} tokens with those added, the checkpoint has {config.language.vocab_size}"
            )


def _load(backbone: Path) -> Tokenizer:
    path = backbone / "tokenizer.json"
    if not path.exists():
        raise ModelError(f"{path}: missing, expected the backbone's tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every kind of damage
        raise ModelError(f"{path}: not a tokenizer ({error})") from None
    # Some releases list tokens only here; they come before the model's own.
    config_path = backbone / "tokenizer_config.json"
    listed = read_json(config_path).get("added_tokens_decoder", {}) if config_path.exists() else {}
    try:
        for _, entry in sorted(listed.items(), key=lambda item: int(item[0])):
            if tokenizer.token_to_id(entry["content"]) is None:
                token = AddedToken(entry["content"], special=entry.get("special", True), normalized=False)
                tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens([token])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{config_path}: added_tokens_decoder, expected ids and the tokens' content") from None
    return tokenizer

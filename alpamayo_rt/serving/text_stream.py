# SPDX-License-Identifier: Apache-2.0
"""Tokens → pieces of text that can be shown at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"


class TextStream:
    """The text of one sequence while it is written.

    A character may need several tokens; until the last of them is there, it decodes to a replacement sign. Such
    an end is held back.

    Args:
        text_of: tokens → text, as `Model.text_of` gives it in the end.
    """

    def __init__(self, text_of: Callable[[list[int]], str]):
        self._text_of = text_of
        self._tokens: list[int] = []
        self.sent = ""

    def add(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """What is new: (text, whether it takes the place of everything sent before)."""
        self._tokens += tokens
        text = self._text_of(self._tokens).rstrip(_BROKEN)
        if text.startswith(self.sent):
            piece, anew = text[len(self.sent) :], False
        elif self.sent.startswith(text):
            return "", False  # a blank at its end that is no longer one, or a character that is not complete
        else:
            piece, anew = text, True
        self.sent = text
        return piece, anew

    def finish(self, text: str) -> tuple[str, bool]:
        """The rest, now that the whole text is known."""
        if text.startswith(self.sent):
            piece, anew = text[len(self.sent) :], False
        else:
            piece, anew = text, True
        self.sent = text
        return piece, anew

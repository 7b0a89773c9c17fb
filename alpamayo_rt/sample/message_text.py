# SPDX-License-Identifier: Apache-2.0
"""Recognizes the model's own layout in the texts of a request, so that it is not repeated in the prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from alpamayo_rt.errors import InputError
from alpamayo_rt.families import CAMERA_NAMES, Family


@dataclass
class SpelledLayout:
    """What texts said beyond the fixed sentences."""

    cameras: list[int] = field(default_factory=list)
    navigation: str | None = None
    question: str | None = None


def _pattern(family: Family) -> re.Pattern[str]:
    cameras = "|".join(re.escape(name) for name in CAMERA_NAMES)
    fixed = "|".join(re.escape(text) for text in (family.system, family.instruction))
    return re.compile(
        rf"\s+|(?:{fixed})"
        rf"|(?P<camera>{cameras}):"
        r"|frame\s+\d+\b:?"
        r"|<\|traj_history_start\|>(?:<\|traj_history\|>)*<\|traj_history_end\|>"
        r"|<\|route_start\|>(?P<route>.*?)<\|route_end\|>"
        r"|<\|question_start\|>(?P<question>.*?)<\|question_end\|>"
        rf"|(?:{re.escape(family.driving_start)}|{re.escape(family.answer_start)})\s*\Z",
        re.DOTALL,
    )


def recognize(text: str, family: Family, found: SpelledLayout) -> None:
    """Take a text apart into pieces of the layout, and add what they say to `found`.

    Raises:
        InputError: the text holds something else; quotes its first words.
    """
    pattern, at = _pattern(family), 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            words = " ".join(text[at:].split()[:8])
            quoted = words if len(words) <= 60 else words[:57] + "..."
            raise InputError(
                f"messages: text {quoted!r} is not part of the prompt's layout; "
                "use nav_text for navigation and question for a question"
            )
        if match["camera"]:
            found.cameras.append(CAMERA_NAMES.index(match["camera"]))
        for name, value in (("navigation", match["route"]), ("question", match["question"])):
            if value is not None:
                if getattr(found, name) not in (None, value):
                    raise InputError(f"messages: two different {name} texts, expected one")
                setattr(found, name, value)
        at = match.end()

# SPDX-License-Identifier: Apache-2.0
"""Recognizes the model's own layout in the texts of a request, so that it is not repeated in the prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from alpamayo_rt.errors import InputError
from alpamayo_rt.families import CAMERA_NAMES, FAMILIES, Family


@dataclass
class SpelledLayout:
    """What texts said beyond the fixed sentences."""

    cameras: list[int] = field(default_factory=list)
    navigation: str | None = None
    question: str | None = None
    task: str | None = None


STARTS = sorted({task.start for family in FAMILIES.values() for task in family.tasks if task.start})
"""Tokens with which some family's answers begin."""
_HISTORY = r"<\|traj_history_start\|>(?:<\|traj_history\|>)*<\|traj_history_end\|>"
_FUTURE = r"<\|traj_future_start\|>(?:<\|traj_future\|>)*<\|traj_future_end\|>"


def _either(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))


def _pattern(family: Family) -> re.Pattern[str]:
    instructions = _either(task.instruction for task in family.tasks if task.instruction)
    history = _HISTORY
    if family.navigation_marks == ("", ""):
        # Only its place tells a navigation without marks: between the history and the instruction.
        history += rf"(?:(?P<unmarked>(?:(?!<\|).)+?)(?={instructions}))?"
    return re.compile(
        rf"\s+|{re.escape(family.system)}|(?P<instruction>{instructions})"
        rf"|(?P<camera>{_either(CAMERA_NAMES)}):"
        r"|frame\s+\d+\b:?"
        rf"|{history}"
        r"|<\|route_start\|>(?P<route>.*?)<\|route_end\|>"
        r"|<\|question_start\|>(?P<question>.*?)<\|question_end\|>"
        + (rf"|{_FUTURE}" if any(task.needs_future for task in family.tasks) else "")
        + rf"|(?:{_either(STARTS)})\s*\Z",
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
        said = match.groupdict()
        task = next((t for t in family.tasks if t.instruction and t.instruction == said["instruction"]), None)
        for name, value in (
            ("navigation", said["route"]),
            ("navigation", (said.get("unmarked") or "").strip() or None),
            ("question", said["question"]),
            # The sentence that asks for a trajectory says nothing: files spell it beside a question too.
            ("task", task.name if task is not None and not task.drives else None),
        ):
            if value is not None:
                if getattr(found, name) not in (None, value):
                    raise InputError(f"messages: two different {name} texts, expected one")
                setattr(found, name, value)
        at = match.end()

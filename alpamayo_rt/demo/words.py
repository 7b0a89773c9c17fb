# SPDX-License-Identifier: Apache-2.0
"""What is said about a window: reasoning, navigation, questions and answers; and reading a cause back."""

from __future__ import annotations

import re

import numpy as np

from alpamayo_rt.demo.arrays import COLOURS, NEXT

_ACTION_WORDS = {
    "keep": ("Keep speed", "Keep going", "Maintain speed", "Keep the current speed"),
    "accelerate": ("Accelerate", "Speed up", "Pick up speed", "Accelerate gently"),
    "slow": ("Slow down", "Reduce speed", "Brake", "Adapt speed"),
    "stop": ("Stop", "Brake to a stop", "Come to a stop", "Slow down and stop"),
    "wait": ("Wait", "Keep waiting", "Hold position", "Remain at a standstill"),
    "turn_left": ("Turn left", "Slow down and turn left", "Take the left turn", "Prepare to turn left"),
    "turn_right": ("Turn right", "Slow down and turn right", "Take the right turn", "Prepare to turn right"),
}
_REASONS = {
    "lead_braking": (
        "because the lead vehicle is braking",
        "since the vehicle ahead shows its brake lights",
        "as the vehicle in front is braking",
        "due to the braking lead vehicle",
    ),
    "lead_stopped": (
        "because the lead vehicle is stopped",
        "since the vehicle ahead stands still with hazard lights",
        "due to the stopped vehicle in our lane",
        "as a stationary vehicle blocks the lane",
    ),
    "red_light": (
        "because the traffic light is red",
        "for the red light at the junction",
        "since the signal ahead shows red",
        "due to the red traffic light",
    ),
    "green_light": (
        "because the traffic light is green",
        "as the light ahead is green",
        "since the signal ahead shows green",
        "due to the green traffic light",
    ),
    "pedestrian": (
        "because a pedestrian is crossing the road",
        "for the pedestrian at the crosswalk",
        "since a person is walking across the road",
        "to yield to the crossing pedestrian",
    ),
    "cross_traffic": (
        "because of cross traffic at the junction",
        "to yield to the vehicle crossing at the junction",
        "since a vehicle is coming from the side road",
        "due to crossing traffic ahead",
    ),
    "curve": (
        "because of the curve ahead",
        "for the sharp curve in the road",
        "since the road bends ahead",
        "due to the bend ahead",
    ),
    "speed_zone": (
        "because the speed limit drops ahead",
        "for the lower speed limit",
        "due to the speed limit sign ahead",
        "as a slower speed zone begins",
    ),
    "turn": (
        "at the junction as the navigation says",
        "at the junction to follow the route",
        "following the navigation at the junction",
        "at the junction as instructed",
    ),
    "free_road": (
        "because the road ahead is free",
        "since the lane ahead is clear",
        "as nothing blocks the road",
        "with no obstacle on the road ahead",
    ),
}
_VEHICLE = r"(?:vehicle|car|truck)"
_RECOGNISED = {
    "pedestrian": r"pedestrian|person|people|crosswalk",
    "red_light": r"\bred\b",
    "green_light": r"\bgreen\b",
    "cross_traffic": rf"cross(?:ing)?[ -]traffic|side road|{_VEHICLE}s? (?:is )?crossing|crossing {_VEHICLE}",
    "lead_stopped": rf"hazard|(?:stopped|stationary|standing) (?:lead )?{_VEHICLE}"
    rf"|{_VEHICLE}(?: ahead| in front)? (?:is stopped|has stopped|is stationary|stands still)",
    "lead_braking": rf"brake lights|braking (?:lead )?{_VEHICLE}"
    rf"|{_VEHICLE}(?: ahead| in front)? (?:is|starts) (?:braking|slowing)",
    "curve": r"\bcurve|\bbend",
    "speed_zone": r"speed limit|speed zone|limit sign",
    "turn": r"navigation|the route|instructed",
    "free_road": r"\bfree\b|\bclear\b|nothing blocks|no obstacle",
}
_PATTERNS = {cause: re.compile(pattern, re.IGNORECASE) for cause, pattern in _RECOGNISED.items()}
_STREETS = ("Main Street", "Oak Street", "Station Road", "Mill Lane", "Park Avenue")

LIGHT_QUESTION = "What colour is the traffic light?"
LEAD_QUESTION = "Is there a lead vehicle?"
NEXT_QUESTION = "What is the next turn of the road?"
LANES_QUESTION = "How many lanes does the road have?"
_NEXT_ANSWERS = dict(
    zip(
        NEXT, ("A left curve.", "A right curve.", "A junction.", "None, the road goes straight."), strict=True
    )
)
_LEAD_ANSWERS = ("No.", "Yes, a car.", "Yes, a truck.")
_LANE_ANSWERS = {2: "Two.", 3: "Three.", 4: "Four."}
# How often a question is asked where its answer is the given one: common answers are asked for less.
_ASK = {
    LIGHT_QUESTION: {"There is no traffic light.": 0.13},
    LEAD_QUESTION: {"No.": 0.27},
    NEXT_QUESTION: {"A junction.": 0.2, "None, the road goes straight.": 0.4},
    LANES_QUESTION: {"Two.": 0.5, "Three.": 0.5, "Four.": 0.5},
}


def reasoning(cause: str, action: str, seed: int) -> str:
    """One sentence that names action and cause; `seed` chooses the wording."""
    first, second = np.random.default_rng([seed, 1]).integers(4, size=2)
    return f"{_ACTION_WORDS[action][first]} {_REASONS[cause][second]}."


def all_reasonings(cause: str) -> list[str]:
    """Every wording of a cause."""
    turns = [a for a in _ACTION_WORDS if a.startswith("turn_")]
    straight = [a for a in _ACTION_WORDS if a not in turns]
    actions = {"turn": turns, "green_light": turns + straight}.get(cause, straight)
    return [f"{verb} {reason}." for a in actions for verb in _ACTION_WORDS[a] for reason in _REASONS[cause]]


def cause_of(text: str) -> str | None:
    """The cause that a sentence names; None where it names none or more than one."""
    found = [cause for cause, pattern in _PATTERNS.items() if pattern.search(text)]
    return found[0] if len(found) == 1 else None


def navigation_text(branch: str, distance: float, seed: int) -> str:
    """An instruction for the junction `distance` metres ahead; `branch` is left, straight or right."""
    rng = np.random.default_rng([seed, 2])
    style, street = int(rng.integers(4)), _STREETS[int(rng.integers(len(_STREETS)))]
    d = max(5, 5 * round(distance / 5))
    if branch == "straight":
        texts = (
            f"Go straight in {d}m",
            f"In {d}m, go straight",
            f"Continue straight on {street} in {d}m",
            "Go straight at the junction",
        )
    else:
        texts = (
            f"Turn {branch} in {d}m",
            f"In {d}m, turn {branch}",
            f"Turn {branch} onto {street} in {d}m",
            f"Turn {branch} at the junction",
        )
    return texts[style]


def questions(
    light: int, lead: int, next_feature: int, lanes: int | None, seed: int, everything: bool = False
) -> list[dict[str, str]]:
    """Questions with answers about a window.

    Args:
        light: index into `arrays.COLOURS`, -1 without a light.
        lead: index into `arrays.LEADS`.
        next_feature: index into `arrays.NEXT`.
        lanes: lanes of the road in both directions; None where that is not asked.
        seed: decides which questions are asked, so that over many clips no answer is right half of the time.
        everything: ask all of them instead.
    """
    answers = {
        LIGHT_QUESTION: f"{COLOURS[light].capitalize()}." if light >= 0 else "There is no traffic light.",
        LEAD_QUESTION: _LEAD_ANSWERS[lead],
        NEXT_QUESTION: _NEXT_ANSWERS[NEXT[next_feature]],
    }
    if lanes is not None:
        answers[LANES_QUESTION] = _LANE_ANSWERS[lanes]
    coins = np.random.default_rng([seed, 3]).uniform(size=4)
    return [
        {"question": question, "answer": answer}
        for coin, (question, answer) in zip(coins, answers.items(), strict=False)
        if everything or coin < _ASK[question].get(answer, 1.0)
    ]

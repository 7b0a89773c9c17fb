# SPDX-License-Identifier: Apache-2.0
"""What is said about a window, and what is understood of it."""

from __future__ import annotations

import pytest

from alpamayo_rt.demo.arrays import ACTIONS, CAUSES
from alpamayo_rt.demo.words import all_reasonings, cause_of, navigation_text, reasoning


@pytest.mark.parametrize("cause", CAUSES)
def test_every_wording_names_its_cause(cause: str) -> None:
    wordings = all_reasonings(cause)
    assert len(set(wordings)) >= 4
    assert {cause_of(text) for text in wordings} == {cause}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_reasoning_is_one_of_the_wordings_and_varies(cause: str) -> None:
    action = "turn_left" if cause == "turn" else "slow"
    said = {reasoning(cause, action, seed) for seed in range(64)}
    assert len(said) > 4
    assert {cause_of(text) for text in said} == {cause}


def test_a_text_without_a_cause_or_with_two_names_none() -> None:
    assert cause_of("Keep speed.") is None
    assert cause_of("Stop for the red light and the pedestrian.") is None


@pytest.mark.parametrize("branch", ["left", "straight", "right"])
def test_navigation_names_the_branch(branch: str) -> None:
    texts = {navigation_text(branch, 42.0, seed) for seed in range(40)}
    assert len(texts) >= 4
    assert all(branch in text.lower() for text in texts)


def test_actions_have_words_for_every_cause() -> None:
    for action in ACTIONS:
        assert reasoning("free_road", action, 0).endswith(".")

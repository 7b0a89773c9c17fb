# SPDX-License-Identifier: Apache-2.0
import pytest

from alpamayo_rt.demo.arrays import CAUSES, FIRST_WINDOW, LAST_WINDOW
from alpamayo_rt.demo.truth import navigation, words
from alpamayo_rt.demo.words import all_reasonings, cause_of, navigation_text, questions


@pytest.mark.parametrize("cause", CAUSES)
def test_every_wording_is_read_back_as_its_cause(cause):
    texts = all_reasonings(cause)
    assert len(set(texts)) >= 16
    for text in texts:
        assert cause_of(text) == cause, text


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("Slow down because the lead vehicle is braking.", "lead_braking"),
        ("SLOW DOWN for the car ahead is braking", "lead_braking"),
        ("Stop behind the stopped truck.", "lead_stopped"),
        ("Yield to cross-traffic.", "cross_traffic"),
        ("Stop for the red light because a pedestrian is crossing.", None),
        ("Drive on.", None),
        ("", None),
    ],
)
def test_causes_are_read_from_other_sentences_and_two_causes_are_none(text, cause):
    assert cause_of(text) == cause


def test_the_words_of_every_window_name_its_cause(scenes):
    for scene in scenes[:60]:
        for t0 in range(FIRST_WINDOW, LAST_WINDOW + 1):
            said = words(scene, t0)
            assert cause_of(said["reasoning"]) == said["cause"]


def test_navigation_names_branch_and_distance_and_can_be_swapped(scenes):
    texts = {navigation_text("left", 41.0, seed) for seed in range(60)}
    assert "Turn left in 40m" in texts
    assert len(texts) >= 4
    scene = next(s for s in scenes if s.cause_name == "turn")
    t0 = int(scene.t0)
    assert "left" in navigation(scene, t0, "left").lower()
    assert "straight" in navigation(scene, t0, "straight").lower()
    calm = next(s for s in scenes if s.navigation < 0)
    assert navigation(calm, int(calm.t0)) is None


def test_questions_tell_the_truth():
    asked = {q["question"]: q["answer"] for q in questions(0, 2, 2, 3, 0, everything=True)}
    assert list(asked.values()) == ["Red.", "Yes, a truck.", "A junction.", "Three."]

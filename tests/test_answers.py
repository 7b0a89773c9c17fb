# SPDX-License-Identifier: Apache-2.0
"""Whatever a model writes is read or stays text with a reason; what it writes well comes back as meant."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.answers import AutoLabel, Box, MetaAction, Reading, read_answer
from alpamayo_rt.tasks import BOXES, LABELS, META_ACTIONS, PLAIN

SIZE, CAMERAS = (1080, 1920), (0, 1, 2)
words = st.text("abc XYZ-,", min_size=1).map(str.strip).filter(bool)


def read(text: str, reads: str, cameras: tuple[int, ...] = CAMERAS) -> Reading:
    return read_answer(text, reads, cameras, SIZE)


@pytest.mark.parametrize("reads", [PLAIN, META_ACTIONS, LABELS, BOXES])
@given(text=st.text())
def test_no_text_is_too_odd(text: str, reads: str) -> None:
    found = read(text, reads)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()
    asked = {META_ACTIONS: found.meta_action, LABELS: found.auto_label, BOXES: found.boxes}
    assert reads == PLAIN or asked[reads] is not None or found.unparsed


@given(words, words, words, words, st.sampled_from(["\n", " ", "\n\n"]))
def test_meta_actions_as_the_model_lays_them_out(
    before: str, longitudinal: str, lateral: str, lane: str, between: str
) -> None:
    text = f"{before}{between}Longitudinal: {longitudinal}.{between}Lateral: {lateral}{between}Lane: {lane}."
    found = read(text, META_ACTIONS)
    assert found.meta_action == MetaAction(longitudinal, lateral, lane)
    assert found.unparsed is None
    assert found.reasoning == before


def test_meta_actions_say_what_is_missing() -> None:
    found = read("Keep lane.\nLane: Lane Keep.", META_ACTIONS)
    assert (found.reasoning, found.meta_action) == ("Keep lane.", MetaAction(lane="Lane Keep"))
    assert found.unparsed == "meta_action: the text does not say longitudinal, lateral"
    nothing = read(" Keep lane. ", META_ACTIONS)
    assert (nothing.reasoning, nothing.meta_action) == ("Keep lane.", None)
    assert nothing.unparsed is not None
    assert nothing.to_json() == {"unparsed": nothing.unparsed}
    # The first of two values counts, as the text is split at the first marker.
    assert read("Lane: A. Lane: B.", META_ACTIONS).meta_action == MetaAction(lane="A")


@given(st.lists(st.none() | words, min_size=4, max_size=4), st.text("abc [{\n"), st.text("xyz]}\n"))
def test_auto_labels_are_found_inside_other_text(values: list[str | None], before: str, after: str) -> None:
    label = AutoLabel(*values)
    found = read(before + json.dumps(asdict(label)) + after, LABELS)
    assert (found.auto_label, found.unparsed) == (label, None)
    assert found.to_json() == {"auto_label": asdict(label)}


def test_auto_labels_with_other_values_and_none() -> None:
    text = '```json\n{"chain_of_causation": "", "trajectory_analysis": {"type": "stop"}, "more": 1}\n```'
    assert read(text, LABELS).auto_label == AutoLabel(trajectory_analysis='{"type": "stop"}')
    for text in ("no JSON", '{"other": 1}', '{"chain_of_causation": NaN}', '{"chain_of_causation": "cut'):
        found = read(text, LABELS)
        assert found.auto_label is None
        assert found.unparsed == "auto_label: no JSON object with one of its four fields in the text"


corner = st.integers(0, 1000) | st.floats(0, 1000)


@given(st.lists(st.tuples(corner, corner, corner, corner, words), max_size=4))
def test_boxes_become_pixels_of_the_front_camera(entries: list[tuple]) -> None:
    ordered = [(min(a, c), min(b, d), max(a, c), max(b, d), label) for a, b, c, d, label in entries]
    text = json.dumps([{"bbox_2d": list(e[:4]), "label": e[4]} for e in ordered])
    found = read(text, BOXES)
    assert found.unparsed is None
    assert found.boxes is not None
    assert len(found.boxes) == len(ordered)
    for box, (x0, y0, x1, y1, label) in zip(found.boxes, ordered, strict=True):
        assert (box.camera, box.label) == (1, label)
        assert box.box == pytest.approx((x0 * 1.92, y0 * 1.08, x1 * 1.92, y1 * 1.08), abs=0.006)


def test_box_of_one_object_and_of_another_camera() -> None:
    text = 'Here: {"bbox_2d": [0, 500, 1000, 1000], "label": "car"}'
    assert read(text, BOXES, (3, 5)).boxes == (Box(3, "car", (0.0, 540.0, 1920.0, 1080.0)),)
    assert read('[{"box": [0, 0, 10, 10]}]', BOXES).boxes == (Box(1, "", (0.0, 0.0, 19.2, 10.8)),)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ('{"bbox_2d": [1, 2, 3]}', "[1, 2, 3], expected four numbers from 0 to 1000"),
        ('{"bbox_2d": [1, 2, 3, 1001]}', "expected four numbers from 0 to 1000"),
        ('{"bbox_2d": [1, 2, 3, true]}', "expected four numbers from 0 to 1000"),
        ('{"bbox_2d": "left"}', '"left", expected four numbers'),
        ('{"bbox_2d": [9, 2, 3, 4]}', "expected the upper left corner before the lower right one"),
        ('{"where": [9, 2, 3, 4]}', "no bbox_2d"),
    ],
)
def test_what_is_no_box_is_said(entry: str, reason: str) -> None:
    alone, mixed = read(f"[{entry}]", BOXES), read(f'[{{"bbox_2d": [1, 1, 2, 2]}}, {entry}]', BOXES)
    assert alone.boxes is None
    assert reason in str(alone.unparsed)
    assert len(mixed.boxes or ()) == 1
    assert str(mixed.unparsed).startswith("boxes[1]: ")
    assert reason in str(mixed.unparsed)

# SPDX-License-Identifier: Apache-2.0
"""Bodies parsed without copying their images are what they would be if parsed as they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.serving import body as bodies
from alpamayo_rt.serving.body import LongTexts, parse
from alpamayo_rt.serving.refusal import Refusal

_TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | _TEXTS
    | st.sampled_from(["x" * 9, 'q"\\' * 5, "\\" * 9]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)


def whole(value: Any, texts: LongTexts) -> Any:
    """With every placeholder's text in place."""
    if isinstance(value, dict):
        return {whole(key, texts): whole(v, texts) for key, v in value.items()}
    if isinstance(value, list):
        return [whole(v, texts) for v in value]
    cut = texts.get(value) if isinstance(value, str) else None
    return value if cut is None else json.loads(b'"' + bytes(cut) + b'"')


@given(
    st.dictionaries(st.sampled_from(["images", "url", "a", "b"]), _VALUES),
    st.booleans(),
    st.sampled_from([0, 3, 8]),
)
def test_the_same_as_plain_json(value: dict[str, Any], ascii_only: bool, long: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "_SMALL", 0)
        patch.setattr(bodies, "_LONG", long)
        raw = json.dumps(value, ensure_ascii=ascii_only).encode()
        parsed, texts = parse(bytearray(raw))
    assert whole(parsed, texts) == value


@given(st.binary(max_size=200))
def test_garbage_is_refused_alike(raw: bytes) -> None:
    def outcome(small: int) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bodies, "_SMALL", small)
            patch.setattr(bodies, "_LONG", 4)
            try:
                parsed, texts = parse(bytearray(b'{"images": ' + raw))
            except Refusal as refusal:
                return refusal.status
            return whole(parsed, texts)

    assert outcome(0) == outcome(1 << 20)


def test_images_are_not_copied_and_other_long_texts_are_texts() -> None:
    image, text = "A" * 100_000, "é" * 5000 + '"' + "x" * 5000
    raw = bytearray(json.dumps({"images": [image], "nav_text": text, "question": "b" * 5000}).encode())
    parsed, texts = parse(raw)
    cut = texts.get(parsed["images"][0])
    assert cut is not None
    assert bytes(cut) == image.encode()
    assert cut.obj is raw
    assert (parsed["nav_text"], parsed["question"]) == (text, "b" * 5000)


def test_a_flood_of_texts_is_parsed_plainly() -> None:
    raw = bytearray(json.dumps({"a": ["x"] * 50_000}).encode())
    assert len(parse(raw)[0]["a"]) == 50_000


def test_a_deep_body_is_refused() -> None:
    for raw in (
        b'{"a":' + b"[" * 100_000,
        b'{"b":"' + b" " * 70_000 + b'","a":' + b"[" * 1000 + b"]" * 1000 + b"}",
    ):
        with pytest.raises(Refusal) as caught:
            parse(bytearray(raw))
        assert caught.value.status == 422

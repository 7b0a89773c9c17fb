# SPDX-License-Identifier: Apache-2.0
"""Recorded cases with narrowed weights: within their bounds, and far from float32's."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpamayo_rt import load
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.checks import check_case

DATA = Path(__file__).parent.parent / "data"
MODELS = {"alpamayo1_5": str(DATA / "alpamayo1_5" / "model" / "checkpoint"), "nano": "nano"}


@pytest.mark.parametrize("precision", ["fp8", "int4"])
@pytest.mark.parametrize("parts", [("language",), ("language", "vision"), ("language", "vision", "expert")])
@pytest.mark.parametrize("folder", MODELS)
def test_cases_are_within_the_bounds_of_narrow_weights(
    folder: str, precision: str, parts: tuple[str, ...]
) -> None:
    model = load(MODELS[folder], "eager", precision, "cpu", parts=parts)
    cases = [Case(path) for path in sorted((DATA / folder).glob("*.npz"))]
    assert len(cases) == 3
    rows = [row for case in cases for row in check_case(model, case)]
    assert [row for row in rows if not row.passed] == []
    # The weights are narrow indeed: the cache is not what float32 gives.
    assert max(row.error for row in rows if row.quantity.startswith("kv_keys")) > 5e-3
    features = [row for row in rows if row.quantity == "image_embeds"]
    assert all((row.error > 1e-2) == ("vision" in parts) for row in features)
    assert {row.bound > 2e-2 for row in features} <= {"vision" in parts}

# SPDX-License-Identifier: Apache-2.0
"""The trained demo model gives what the public reference gives on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpamayo_rt import Model, load
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.checks import check_case

FOLDER = Path(__file__).parent.parent / "data" / "nano"
CASES = sorted(FOLDER.glob("*.npz"))


@pytest.fixture(scope="module")
def nano() -> Model:
    return load("nano", "eager", "fp32", "cpu")


def test_the_cases_are_there() -> None:
    assert [path.stem for path in CASES] == ["greedy2", "nav_cfg", "vqa"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_nano_gives_what_the_reference_gives(nano: Model, path: Path) -> None:
    case = Case(path)
    assert case.meta["model_hash"] == nano.provenance()["hash"]
    rows = check_case(nano, case)
    assert len(rows) >= 8
    assert [row for row in rows if not row.passed] == []

# SPDX-License-Identifier: Apache-2.0
"""The trained demo model on the fast engine gives what the public reference gives on the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from pairs import Pair

from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.checks import check_case

FOLDER = Path(__file__).parents[2] / "data" / "nano"


@pytest.mark.parametrize("name", ["greedy2", "nav_cfg", "vqa"])
def test_nano_gives_what_the_reference_gives(nano_pair: Pair, name: str) -> None:
    rows = check_case(nano_pair.graph_model, Case(FOLDER / f"{name}.npz"))
    assert len(rows) >= 8
    assert [row for row in rows if not row.passed] == []

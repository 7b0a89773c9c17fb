# SPDX-License-Identifier: Apache-2.0
"""Pairs of engines that all tests of the fast engine share."""

from __future__ import annotations

import pytest
from pairs import CHECKPOINT, Pair, pair_of


@pytest.fixture(scope="session")
def tiny() -> Pair:
    """The tiny Alpamayo 1.5 in float32 on the CPU."""
    return pair_of(CHECKPOINT)


@pytest.fixture(scope="session")
def nano_pair() -> Pair:
    """The trained demo model."""
    return pair_of("nano")


@pytest.fixture(scope="session", params=["alpamayo1_5", "alpamayo2_super", "nano"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each architecture that ships, and the trained model."""
    if request.param == "alpamayo2_super":
        return pair_of(str(request.getfixturevalue("super_folder")))
    return request.getfixturevalue({"alpamayo1_5": "tiny", "nano": "nano_pair"}[request.param])

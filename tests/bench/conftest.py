# SPDX-License-Identifier: Apache-2.0
"""A small request that all benchmark tests share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alpamayo_rt import Model
from alpamayo_rt.bench.workloads import WORKLOADS, Request, request_of

SMALL = replace(WORKLOADS["W6m"], candidates=2, tokens=4, steps=2)


@pytest.fixture(scope="session")
def small_request(model_1_5: Model) -> Request:
    """Two candidates with a reasoning each, of three tokens, and one camera, on the tiny Alpamayo 1.5."""
    return request_of(model_1_5, SMALL, cameras=(1,))

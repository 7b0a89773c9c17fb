# SPDX-License-Identifier: Apache-2.0
"""A short form of benchmarks/serve_load.py: nothing breaks under load, and memory stays what it is.

What share of the engine's rate is left is measured by the benchmark itself, on a machine without other load.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone]
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))


def measure(**changes: Any) -> dict[str, Any]:
    from serve_load import measure as run

    settings = {
        "requests": 400, "clients": 32, "seconds": 40.0, "hostile": 0.05, "model": "nano", "half": False,
        "direct_seconds": 10.0,
    }  # fmt: skip
    return run(**settings | changes)


def test_load_with_hostile_clients() -> None:
    record = measure()
    assert record["wrong"] == []
    assert record["said"] == []
    assert (record["server_alive"], record["exit_status"]) == (True, 0)
    assert set(record["good"]) <= {"200", "429"}
    assert sum(record["good"].values()) + sum(record["hostile"].values()) == 400
    assert record["good"]["200"] > 5
    assert record["p99_ms"] is not None
    memory = record["memory_mib"]
    assert abs(memory["last_third"] / memory["first_third"] - 1) < 0.05


def test_half_the_load_is_answered_in_full() -> None:
    record = measure(half=True, seconds=30.0)
    assert record["wrong"] == []
    assert set(record["good"]) == {"200"}


def test_hostile_clients_alone() -> None:
    record = measure(requests=60, hostile=1.0, clients=4, seconds=20.0, direct_seconds=1.0)
    assert record["wrong"] == []
    for kind in ("nan", "huge_image", "wrong_count"):
        assert f"{kind}: 422" in record["hostile"], record["hostile"]
    assert (record["server_alive"], record["exit_status"]) == (True, 0)

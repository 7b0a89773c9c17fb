# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt bench` on a GPU, with the tiny checkpoint: all workloads on both engines, and the check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_runs import CHECKPOINT, ROOT, Run
from jsonschema import Draft202012Validator

pytestmark = pytest.mark.gpu


def test_bench_on_a_gpu(tmp_path: Path, cli: Callable[..., Run]) -> None:
    out = tmp_path / "record.json"
    run = cli(
        "bench", "--model", CHECKPOINT, "--engine", "graphs", "--precision", "bf16", "--compare",
        "--repetitions", 5, "--soak", 20, "--out", out,
    )  # fmt: skip
    assert run.status == 0, run.err
    record = json.loads(out.read_text())
    schema = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
    assert not list(Draft202012Validator(schema).iter_errors(record))
    assert record["device"] == torch.cuda.get_device_name()
    assert record["clocks"]
    timed = [(result["engine"], result["workload"]) for result in record["results"]]
    names = ["W6", "W6m", "W1", "W6-18", "W6-cached", "W1-cached"]
    assert timed == [("graphs", name) for name in names] + [("eager", name) for name in names[:4]]
    graphs, eager = record["results"][0], record["results"][6]
    assert graphs["total_ms"] < eager["total_ms"]
    assert graphs["check"]["passed"]
    assert graphs["soak"]["growth_mib"] == 0

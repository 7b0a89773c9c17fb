# SPDX-License-Identifier: Apache-2.0
"""From the records of clips to the figures of a run: accuracy with intervals, words, times, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from alpamayo_rt.evaluation.intervals import mean_intervals

Record = dict[str, Any]


def metric_columns(records: Sequence[Record]) -> tuple[list[str], np.ndarray]:
    """The metrics of all records and their values (clips, m), NaN where a clip has none."""
    names = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    rows = [[float(record["metrics"].get(name, np.nan)) for name in names] for record in records]
    return names, np.array(rows, np.float64).reshape(len(records), len(names))


def summarize(records: Sequence[Record], missing: int = 0) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
        records: of `results.jsonl`, failed ones among them.
        missing: clips of the list that are not here and have no record.
    """
    good = [record for record in records if record["status"] == "ok"]
    names, values = metric_columns(good)
    out: dict[str, Any] = {"clips": len(good), "failed": len(records) - len(good), "missing": missing}
    out["metrics"] = {}
    if good:
        intervals = mean_intervals(values)
        for name, column, interval in zip(names, values.T, intervals, strict=True):
            there = column[~np.isnan(column)]
            out["metrics"][name] = {
                "mean": _round(there.mean()),
                "median": _round(np.median(there)),
                "p90": _round(np.quantile(there, 0.9)),
                "ci95": [_round(bound) for bound in interval],
                "clips": len(there),
            }
    out["stop_reasons"] = dict(Counter(reason for record in good for reason in record["stop_reasons"]))
    errors = Counter(record["error"] for record in records if record["status"] != "ok")
    out["errors"] = dict(errors.most_common(20))
    out.update(timing(good))
    peaks: dict[str, float] = {}
    for record in good:
        for name, gib in (record.get("memory_gib") or {}).items():
            peaks[name] = max(peaks.get(name, 0.0), gib)
    out["peak_memory_gib"] = peaks
    return out


def timing(records: Sequence[Record]) -> dict[str, Any]:
    """Milliseconds per stage in steady state, and how much of the time waited for data.

    Each worker's first clips are left out: they compile, capture and warm caches. Where nothing else is there
    they are all there is, and `steady` says so.
    """
    timed = [record for record in records if record["milliseconds"]]
    steady = [record for record in timed if not record["warm_up"]]
    used = steady or timed
    stages = list(dict.fromkeys(stage for record in used for stage in record["milliseconds"]))
    table = {}
    for stage in stages:
        ms = np.array([record["milliseconds"].get(stage, 0.0) for record in used])
        table[stage] = {
            name: _round(np.quantile(ms, q)) for name, q in (("median", 0.5), ("p90", 0.9), ("p99", 0.99))
        }
    waited = sum(record["wait_ms"] for record in used)
    worked = sum(record["milliseconds"].get("total", 0.0) for record in used)
    share = waited / (waited + worked) if waited + worked else 0.0
    data = np.array([record["data_ms"] for record in used]) if used else np.zeros(1)
    return {
        "milliseconds": table,
        "timing": {
            "steady": bool(steady),
            "clips": len(used),
            "waited_for_data": _round(share),
            "data_ms_median": _round(np.median(data)),
        },
    }


def _round(value: Any) -> float:
    return round(float(value), 6)

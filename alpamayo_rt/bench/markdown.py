# SPDX-License-Identifier: Apache-2.0
"""The tables that documents quote, made from a record alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alpamayo_rt.bench.record import Record, pause_of

_HEADER = (
    "workload", "engine", "precision", "total", "p90", "p99", "from raw frames", "vision", "prefill",
    "decode step", "expert step", "peak GiB",
)  # fmt: skip
_CHECK_HEADER = ("family", "engine", "precision", "", "vision", "prefill logits", "cache", "velocity", "action")
_CHECKS = ("vision", "prefill_logits", "cache", "velocity", "action")


def markdown(record: Record) -> str:
    """A record as Markdown: where it comes from, one table a family, then the checks."""
    families = list(dict.fromkeys(result["family"] for result in record["results"]))
    torch = record["versions"].get("torch", "unknown")
    pause = pause_of(record)
    rest = f", after {pause:g} s of rest each" if pause else ""
    parts = [f"{record['device']}, {record['date']}, torch {torch}; medians in milliseconds{rest}:"]
    for family in families:
        results = [result for result in record["results"] if result["family"] == family]
        parts.append(_table(_HEADER, [_times(result) for result in results]))
    rows = [row for result in _one_a_check(record["results"]) for row in _checks(result)]
    if rows:
        parts.append(_table(_CHECK_HEADER, rows))
    parts.append(f"```bash\n{record['command']}\n```")
    return "\n\n".join(parts)


def _times(result: dict[str, Any]) -> tuple[str, ...]:
    stages = result["stages_ms"]
    names = ("total_ms", "p90_ms", "p99_ms", "end_to_end_ms")
    times = [result.get(name) for name in names]
    times += [stages[name] for name in ("vision", "prefill", "decode_step", "expert_step")]
    cells = ["" if value is None else f"{value:.2f}" if value < 100 else f"{value:.1f}" for value in times]
    peak = result.get("peak_gib")
    return (
        result["workload"], result["engine"], result["precision"], *cells,
        "" if peak is None else f"{peak:.2f}",
    )  # fmt: skip


def _one_a_check(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results with a check, one for each engine and precision: the same check stands in all of them."""
    found = {
        (result["family"], result["engine"], result["precision"]): result
        for result in reversed(results)
        if result.get("check")
    }
    return list(reversed(found.values()))


def _checks(result: dict[str, Any]) -> list[tuple[str, ...]]:
    check, rows = result["check"], []
    eager = [(name.replace("_", " "), check[name]) for name in check if name.startswith("eager")]
    lines = [("distance from float32", check), *eager]
    for name, values in lines:
        cells = [f"{values[q]:.2e}" if values.get(q) is not None else "" for q in _CHECKS]
        rows.append((result["family"], result["engine"], result["precision"], name, *cells))
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

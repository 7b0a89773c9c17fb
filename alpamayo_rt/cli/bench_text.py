# SPDX-License-Identifier: Apache-2.0
"""What `alpamayo-rt bench` prints: times, what they come to beside the ceilings, the check."""

from __future__ import annotations

from typing import Any

from alpamayo_rt.bench.check import QUANTITIES
from alpamayo_rt.cli.common import table

_TIMES = ("total_ms", "p90_ms", "p99_ms", "end_to_end_ms")
_STAGES = ("vision", "prefill", "decode_step", "expert_step")


def text(record: dict[str, Any]) -> str:
    """A record for people."""
    parts = [f"{record['device']}, {record['date']}; milliseconds, medians", _times(record["results"])]
    achieved = _achieved(record["results"])
    if achieved:
        parts += ["", *achieved]
    if record.get("ceilings"):
        parts.append(_ceilings(record["ceilings"]))
    for result in _one_each(record["results"]):
        name = f"{result['engine']} {result['precision']}"
        if result.get("check"):
            parts.append(f"check of {name}: {_check(result['check'])}")
        if result.get("soak"):
            soak = result["soak"]
            parts.append(
                f"{soak['n']} requests of {result['workload']} on {name}: p99 {soak['p99_ms']:.2f} ms, "
                f"{soak['p99_over_median']:.3f} of the median; memory {soak['growth_mib']:+.1f} MiB"
            )
    return "\n".join(parts)


def _times(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            result["workload"], result["engine"], result["precision"],
            *(f"{result[name]:.2f}" if name in result else "" for name in _TIMES),
            *(f"{result['stages_ms'][stage]:.2f}" for stage in _STAGES),
            f"{result['peak_gib']:.2f}", str(result["n"]),
        )
        for result in results
    ]  # fmt: skip
    header = (
        "workload", "engine", "precision", "total", "p90", "p99", "from frames", "vision", "prefill",
        "decode step", "expert step", "peak GiB", "n",
    )  # fmt: skip
    return table(header, rows)


def _one_each(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first result of each engine and precision."""
    return list({(r["family"], r["engine"], r["precision"]): r for r in reversed(results)}.values())[::-1]


def _achieved(results: list[dict[str, Any]]) -> list[str]:
    rows = [
        (
            result["workload"], result["engine"], result["precision"], stage.replace("_", " "),
            f"{result['stages_ms'][stage]:.2f}", f"{found['tflop_s']:.4g}", f"{found['tb_s']:.3g}",
            f"{found['floor_ms']:.2f}", f"{found['of_ceiling']:.0%}",
        )
        for result in _one_each(results)
        for stage, found in result.get("achieved", {}).items()
    ]  # fmt: skip
    header = (
        "workload", "engine", "precision", "stage", "ms", "TFLOP/s", "TB/s", "floor ms", "of the ceiling",
    )  # fmt: skip
    return [table(header, rows)] if rows else []


def _ceilings(found: dict[str, Any]) -> str:
    fp8 = found["product_fp8_tflop_s"]
    return (
        f"ceilings here: copy {found['copy_tb_s']:.3g} TB/s, products {found['product_tflop_s']:.4g} TFLOP/s"
        + (f", in FP8 {fp8:.4g}" if fp8 else "")
    )


def _check(check: dict[str, Any]) -> str:
    each = ", ".join(
        f"{name.replace('_', ' ')} {check[name]:.1e} (eager {check['eager'][name]:.1e})"
        for name in QUANTITIES
        if name in check
    )
    return f"{'passed' if check['passed'] else 'FAILED'}; distance from float32: {each}"

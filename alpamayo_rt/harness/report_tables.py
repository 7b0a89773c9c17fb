# SPDX-License-Identifier: Apache-2.0
"""The tables of a report as rows of texts, for HTML and Markdown alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alpamayo_rt.evaluation.clip_metrics import is_share, label_of
from alpamayo_rt.evaluation.comparison import Change
from alpamayo_rt.harness.compare_runs import SHOWN, Comparison
from alpamayo_rt.harness.report_data import RunView


@dataclass(frozen=True)
class Table:
    """A heading, column names, rows, and a sentence below."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def all_tables(views: list[RunView], comparisons: list[Comparison]) -> list[Table]:
    """Every table that has something to say, in the order of the report."""
    tables = [runs(views), accuracy(views)]
    tables += [verdicts(comparison, views) for comparison in comparisons]
    tables += [times(views), words(views), causes(views), failures(views)]
    return [table for table in tables if table.rows]


def runs(views: list[RunView]) -> Table:
    """What was run where, and what came of it."""
    rows = []
    for v in views:
        s = v.summary
        made = str(v.header.get("created", ""))[:10]
        source = str((v.header.get("asked") or {}).get("clips", ""))
        rows.append(
            [
                v.name,
                v.title,
                str(v.header["device"]),
                source,
                str(s["clips"]),
                str(s["failed"]),
                str(s["missing"]),
                made,
            ]
        )
    columns = ["run", "model and engine", "device", "clips from", "answered", "failed", "not here", "date"]
    return Table("Runs", columns, rows)


def accuracy(views: list[RunView]) -> Table:
    """Mean with its interval, median and 90th percentile of every metric."""
    names = list(dict.fromkeys(name for v in views for name in v.summary["metrics"]))
    # Six candidates and the best of them are in there under the usual name.
    numbered = [name for name in names if name.startswith("min_ade_") and "_at_" not in name]
    names = [
        n
        for n in names
        if not n.endswith("_at_6.4s") and not (n in ("ade_best", "ade_first") and len(numbered) > 1)
    ]
    names.sort(key=_order)
    rows = []
    for name in names:
        label, unit = label_of(name)
        row = [f"{label}, {unit}" if unit else label]
        for v in views:
            m = v.summary["metrics"].get(name)
            row += ["", ""] if m is None else _figures(name, m)
        rows.append(row)
    columns = ["metric"]
    for v in views:
        columns += [f"{v.name}: mean (95 %)", "median / p90"]
    return Table("Accuracy", columns, rows, "Means with 95 % bootstrap intervals over clips.")


def _order(name: str) -> tuple[int, int]:
    main = (*(n for n in ("min_ade_6", "min_ade_1")), "ade_best", "ade_mean", "min_fde_6", "miss_rate_6")
    return (0, main.index(name)) if name in main else (1, 0)


def _figures(name: str, m: dict[str, Any]) -> list[str]:
    low, high = m["ci95"]
    if is_share(name):
        return [f"{100 * m['mean']:.1f} % ({100 * low:.1f} to {100 * high:.1f})", ""]
    return [f"{m['mean']:.3f} ({low:.3f} to {high:.3f})", f"{m['median']:.3f} / {m['p90']:.3f}"]


def verdicts(comparison: Comparison, views: list[RunView]) -> Table:
    """One run against the first."""
    names = {str(v.path): v.name for v in views}
    rows = []
    for change in comparison.changes:
        if change.name in SHOWN or change.name == comparison.main:
            label, unit = label_of(change.name)
            what = f"{label}, {unit}" if unit else label
            rows.append(
                [what, f"{change.mean_a:.3f}", f"{change.mean_b:.3f}", change_text(change), verdict(change)]
            )
    a, b = names[comparison.a], names[comparison.b]
    note = " ".join(f"{note[0].upper()}{note[1:]}." for note in comparison.notes)
    title = f"{b} against {a}: {comparison.verdict.verdict}"
    return Table(title, ["metric", a, b, "change (95 %)", "verdict"], rows, note)


def change_text(change: Change) -> str:
    """The change and its interval."""
    if change.relative:
        return f"{100 * change.change:+.2f} % ({100 * change.low:+.2f} to {100 * change.high:+.2f})"
    return f"{change.change:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def verdict(change: Change) -> str:
    """The verdict, and how many clips would decide where there is none."""
    more = "" if change.clips_to_decide is None else f" (about {change.clips_to_decide:,} clips would decide)"
    return change.verdict + more


def times(views: list[RunView]) -> Table:
    """Milliseconds per stage, and what else a run cost."""
    rows = []
    for v in views:
        for stage, ms in v.summary["milliseconds"].items():
            rows.append([v.name, stage, *(f"{ms[q]:,.1f}" for q in ("median", "p90", "p99"))])
    notes = []
    for v in views:
        if v.summary["milliseconds"]:
            t = v.summary["timing"]
            rate = v.session.get("clips_per_second")
            peak = ", ".join(f"{name} {gib:.2f} GiB" for name, gib in v.summary["peak_memory_gib"].items())
            notes.append(
                f"{v.name}: {t['clips']} clips{'' if t['steady'] else ' (warm-up included: too few)'}, "
                f"{100 * t['waited_for_data']:.1f} % of the time waited for data "
                f"({t['data_ms_median']:,.0f} ms to make a clip ready, beside the inference)"
                + (f", {rate:.2f} clips a second with {v.session['workers']} worker(s)" if rate else "")
                + (f", peak memory {peak}" if peak else "")
                + "."
            )
    return Table(
        "Milliseconds in steady state", ["run", "stage", "median", "p90", "p99"], rows, " ".join(notes)
    )


def words(views: list[RunView]) -> Table:
    """How reasonings end."""
    rows = [
        [v.name, reason, str(count), f"{100 * count / sum(v.summary['stop_reasons'].values()):.1f} %"]
        for v in views
        for reason, count in v.summary["stop_reasons"].items()
    ]
    return Table("How the reasoning ended", ["run", "reason", "reasonings", "share"], rows)


def causes(views: list[RunView]) -> Table:
    """Where the true cause is known: how often it is named."""
    rows = [
        [v.name, cause.replace("_", " "), str(n), f"{100 * share:.1f} %"]
        for v in views
        for cause, n, share in v.causes()
    ]
    return Table("Does the reasoning name the true cause?", ["run", "true cause", "clips", "named"], rows)


def failures(views: list[RunView]) -> Table:
    """Clips without an answer, and why."""
    rows = [[v.name, r["clip_id"], str(r["t0_us"]), r["error"]] for v in views for r in v.failed()[:50]]
    more = sum(max(0, len(v.failed()) - 50) for v in views)
    return Table("Failed clips", ["run", "clip", "t0, µs", "cause"], rows, f"And {more} more." if more else "")

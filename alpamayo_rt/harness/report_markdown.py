# SPDX-License-Identifier: Apache-2.0
"""The tables of a report as Markdown, for an issue or a pull request."""

from __future__ import annotations

from alpamayo_rt.harness.compare_runs import Comparison
from alpamayo_rt.harness.report_data import RunView
from alpamayo_rt.harness.report_tables import Table, all_tables


def text(views: list[RunView], comparisons: list[Comparison]) -> str:
    """The report of some runs, without pictures."""
    parts = [f"# Evaluation: {', '.join(view.name for view in views)}"]
    parts += [_table(table) for table in all_tables(views, comparisons)]
    for view in views:
        if view.good():
            parts.append(
                f"## Worst clips of {view.name}\n\n" + "\n".join(_clip(record) for record in view.worst())
            )
    return "\n\n".join(parts) + "\n"


def _clip(record: dict) -> str:
    said = " / ".join(record["reasoning"][:1])
    return f"- {_plain(record['clip_id'])}: ADE {record['metrics']['ade_best']:.2f} m. {_plain(said)}"


def _table(table: Table) -> str:
    lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in (table.columns, *table.rows)]
    lines.insert(1, "|" + "---|" * len(table.columns))
    return f"## {table.title}\n\n" + "\n".join(lines) + (f"\n\n{_plain(table.note)}" if table.note else "")


def _plain(cell: str) -> str:
    """Without what Markdown or HTML would act on."""
    for sign in "\\`*_[]<>|":
        cell = cell.replace(sign, "\\" + sign)
    return " ".join(cell.split())

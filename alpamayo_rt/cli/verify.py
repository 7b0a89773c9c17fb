# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt verify`: compares an engine with recorded cases of the reference."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from alpamayo_rt.cli.common import (
    add_engine_arguments,
    add_model_arguments,
    emit,
    internal_error,
    load_model,
    say,
    table,
)
from alpamayo_rt.verify.rows import Row


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "verify", help="compare an engine with recorded cases, quantity by quantity", allow_abbrev=False
    )
    add_model_arguments(command, required=False)
    add_engine_arguments(command)
    command.add_argument("cases", nargs="+", type=Path, metavar="CASE.npz", help="with CASE.json beside each")
    command.add_argument("--all-rows", action="store_true", help="one row a layer and step")
    command.add_argument("--json", action="store_true", help="print JSON, always one row a layer and step")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.errors import AlpamayoError
    from alpamayo_rt.verify.case import Case
    from alpamayo_rt.verify.checks import check_case

    cases = [Case(path) for path in args.cases]
    model = load_model(args)
    rows: list[Row] = []
    for case in cases:
        say(f"{case.path}")
        try:
            rows += check_case(model, case)
        except AlpamayoError as error:
            rows.append(Row(case.name, str(error), "", "cannot be compared", math.inf, 0.0))
        except Exception as error:
            # Arrays and settings that do not fit together fail wherever they first meet.
            rows.append(Row(case.name, internal_error(error), "", "cannot be compared", math.inf, 0.0))
    failed = [row for row in rows if not row.passed]
    if args.json:
        emit(json.dumps([_as_json(row) for row in rows], indent=1))
    else:
        emit(_table(rows if args.all_rows else worst_rows(rows)))
        emit(f"{len(rows)} comparisons in {len(cases)} case(s), {len(failed)} over their bound")
    return 1 if failed else 0


def worst_rows(rows: Sequence[Row]) -> list[Row]:
    """One row for the layers or steps of a quantity: the one nearest to its bound or furthest over it."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case, re.sub(r"\[\d+\]$", "", row.quantity), row.source, row.metric), []).append(
            row
        )
    worst = []
    for members in groups.values():
        worst.append(max(members, key=lambda row: (row.error > row.bound, row.error)))
    return worst


def _as_json(row: Row) -> dict[str, object]:
    error = row.error if math.isfinite(row.error) else None
    return {
        "case": row.case,
        "quantity": row.quantity,
        "source": row.source,
        "metric": row.metric,
        "error": error,
        "bound": row.bound,
        "passed": row.passed,
    }


def _table(rows: Sequence[Row]) -> str:
    return table(
        ("case", "quantity", "source", "metric", "error", "bound", ""),
        [
            (
                row.case,
                row.quantity,
                row.source,
                row.metric,
                f"{row.error:.2e}" if row.metric != "differing" else f"{row.error:.0f}",
                f"{row.bound:.1e}" if row.bound else "0",
                "pass" if row.passed else "FAIL",
            )
            for row in rows
        ],
    )

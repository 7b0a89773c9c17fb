# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt report RUN …`: one page that shows what runs came to."""

from __future__ import annotations

import argparse
from pathlib import Path

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.cli.common import emit, say
from alpamayo_rt.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "report", help="runs as one HTML page, and as Markdown", allow_abbrev=False,
        description="Tables, error distribution, minADE over horizon, times, worst and best clips. The first "
        "run is what the others are compared with. See docs/evaluation.md.",
    )  # fmt: skip
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that eval has written")
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="default: report.html in the first run; .md goes beside it",
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report."""
    from alpamayo_rt.harness import report_html, report_markdown
    from alpamayo_rt.harness.report_data import compare_views, view

    out = args.runs[0] / "report.html" if args.out is None else args.out
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out: {out}, expected a name that ends in .html")
    views = []
    for path in args.runs:
        say(f"reading {path}")
        views.append(view(path))
    comparisons = compare_views(views)
    write_atomically(out, report_html.page(views, comparisons).encode())
    beside = out.with_suffix(".md")
    write_atomically(beside, report_markdown.text(views, comparisons).encode())
    emit(f"{out}\n{beside}")
    return 0

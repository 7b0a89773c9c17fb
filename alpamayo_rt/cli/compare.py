# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt compare RUN_A RUN_B`: is B as good as A?"""

from __future__ import annotations

import argparse
import json
from typing import Any

from alpamayo_rt.cli.common import emit, say, table
from alpamayo_rt.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "compare", help="is a second run as good as a first, clip by clip", allow_abbrev=False,
        description="Paired over the clips that both runs answered: the change of each metric with its 95 % "
        "interval and a verdict: equivalent, worse, better or undecided. See docs/evaluation.md.",
    )  # fmt: skip
    command.add_argument("run_a", metavar="RUN_A", help="the measure")
    command.add_argument("run_b", metavar="RUN_B", help="what is measured against it")
    command.add_argument("--metric", metavar="NAME", help="that decides (default: min_ade_6)")
    command.add_argument("--margin", default="2%", metavar="M", help="still equivalent (default: 2%%)")
    command.add_argument(
        "--max-regression", metavar="M",
        help="exit 1 where the metric that decides is worse by more, or a clip failed that A answered",
    )  # fmt: skip
    command.add_argument("--require", choices=("equivalent",), help="exit 1 unless it is shown")
    command.add_argument("--all", action="store_true", help="show all metrics")
    command.add_argument("--json", action="store_true", help="print as JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare; 1 where a check that was asked for fails."""
    from alpamayo_rt.harness.compare_runs import compare_runs

    margin = fraction("--margin", args.margin)
    limit = None if args.max_regression is None else fraction("--max-regression", args.max_regression, 0.0)
    found = compare_runs(args.run_a, args.run_b, args.metric, margin)
    emit(json.dumps(found.to_json(), indent=1, allow_nan=False) if args.json else text_of(found, args.all))
    verdict, failed = found.verdict, []
    if limit is not None and verdict.regression > limit:
        failed.append(f"{found.main} is worse by {100 * verdict.regression:.2f} %, more than {100 * limit:g} %")
    if limit is not None and found.failed_only_b:
        failed.append(f"{len(found.failed_only_b)} clip(s) failed that {args.run_a} answered")
    if args.require == "equivalent" and verdict.verdict != "equivalent":
        failed.append(f"{found.main} is {verdict.verdict}, not equivalent")
    for line in failed:
        say(f"alpamayo-rt compare: {line}")
    return 1 if failed else 0


def fraction(option: str, text: str, least: float = 1e-9) -> float:
    """`2%` or `0.02`.

    Raises:
        InputError: neither, or outside 0 to 1.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not least <= value < 1:
        raise InputError(f"{option}: {text!r}, expected a share such as 2% or 0.02")
    return value


def text_of(found: Any, everything: bool) -> str:
    """The comparison as a table, the verdict and the clips that moved most."""
    from alpamayo_rt.harness.compare_runs import SHOWN

    shown = [c for c in found.changes if everything or c.name in SHOWN or c.name == found.main]
    rows = [
        (
            c.name,
            f"{c.mean_a:.4g}",
            f"{c.mean_b:.4g}",
            change_text(c),
            interval_text(c),
            str(c.clips),
            verdict_text(c),
        )
        for c in shown
    ]
    parts = [table(("metric", "A", "B", "change", "95 % interval", "clips", "verdict"), rows)]
    main = found.verdict
    parts.append(
        f"{found.main}: {verdict_text(main)}; B changes A by {change_text(main)} ({interval_text(main)}), "
        f"equivalent is within {100 * main.margin:g} {'%' if main.relative else 'points'}"
    )
    parts += [f"note: {note}" for note in found.notes]
    if found.only_a or found.only_b or found.failed_only_b:
        parts.append(
            f"answered only in A: {found.only_a} ({len(found.failed_only_b)} failed in B), "
            f"only in B: {found.only_b}"
        )
    if found.moved:
        moved = [(m.clip_id, str(m.t0_us), f"{m.before:.3f}", f"{m.after:.3f}", f"{m.after - m.before:+.3f}")
                 for m in found.moved]  # fmt: skip
        parts.append(table(("moved most", "t0_us", "A", "B", "change"), moved))
    return "\n\n".join(parts)


def change_text(change: Any) -> str:
    """`+1.20 %`, or the difference itself."""
    return f"{100 * change.change:+.2f} %" if change.relative else f"{change.change:+.4f}"


def interval_text(change: Any) -> str:
    """The interval in the same unit."""
    if change.relative:
        return f"{100 * change.low:+.2f} to {100 * change.high:+.2f} %"
    return f"{change.low:+.4f} to {change.high:+.4f}"


def verdict_text(change: Any) -> str:
    """The verdict, and how many clips would decide where there is none."""
    if change.clips_to_decide is None:
        return str(change.verdict)
    return f"{change.verdict}, about {change.clips_to_decide:,} clips would decide"

# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt eval`: how accurate and how fast a model on an engine is, over many clips."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from alpamayo_rt.cli.camera_list import parse_cameras
from alpamayo_rt.cli.common import (
    ENGINE_OPTIONS,
    add_engine_arguments,
    add_model_arguments,
    chosen_parts,
    emit,
    say,
    table,
)
from alpamayo_rt.errors import InputError
from alpamayo_rt.settings import SETTING_NAMES


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "eval", help="accuracy and times over many clips; goes on where it was", allow_abbrev=False,
        description="Evaluate a model, or baseline:constant-velocity or baseline:constant-turn-rate, on clips "
        "whose future is known. See docs/evaluation.md.",
    )  # fmt: skip
    add_model_arguments(command)
    add_engine_arguments(command)
    from alpamayo_rt.harness.sources import HELP

    command.add_argument("--clips", required=True, metavar="SOURCE", help=HELP)
    command.add_argument("--dataset-root", metavar="ROOT", help="where the clips of a list are")
    command.add_argument("--cameras", default="0,1,2,6", metavar="C,C", help="of dataset clips (0,1,2,6)")
    command.add_argument("--limit", type=int, metavar="N", help="the first N clips; more later go on")
    command.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    asked = command.add_argument_group("how each clip is answered (docs/python.md)")
    asked.add_argument("--num-candidates", "--numCandidates", type=int, default=6, metavar="K")
    asked.add_argument("--num-diffusion-steps", "--numDiffusionSteps", type=int, default=10, metavar="N")
    asked.add_argument("--multi-seq", "--multiSeq", action="store_true", help="a reasoning for each candidate")
    asked.add_argument("--temperature", type=float, default=0.6)
    asked.add_argument("--top-p", type=float, default=0.98)
    asked.add_argument("--top-k", type=int)
    asked.add_argument("--max-generate-length", type=int, metavar="N")
    asked.add_argument("--guidance-weight", type=float, metavar="W", help="needs navigation in every clip")
    asked.add_argument(
        "--seed", type=int, default=0, help="each clip's own is made from it and the clip's name"
    )
    asked.add_argument(
        "--best-of", metavar="K,K", help="further numbers of candidates of which the best counts"
    )
    work = command.add_argument_group("how the work is done")
    work.add_argument("--workers", type=int, metavar="N", help="one a GPU, through Ray (default: 1)")
    work.add_argument("--cluster", metavar="ADDRESS", help="of a Ray cluster; default there: all its GPUs")
    work.add_argument(
        "--prefetch", type=int, default=2, metavar="N", help="clips made ready ahead (default: 2)"
    )
    work.add_argument("--threads", type=int, metavar="N", help="of each worker on the CPU")
    work.add_argument("--warm-up", type=int, default=3, metavar="N", help="a worker's first clips, not timed")
    work.add_argument("--no-pictures", action="store_true", help="keep no camera pictures for the report")
    work.add_argument("--retry-failed", action="store_true", help="run failed clips again")
    command.add_argument("--json", action="store_true", help="print the summary as JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate; 1 where a clip failed or is missing."""
    from alpamayo_rt.harness.evaluate import Work, evaluate

    plan = make_plan(args)
    for name, least in (("limit", 1), ("workers", 1), ("prefetch", 0), ("threads", 1), ("warm_up", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: {value}, expected a whole number from {least} on")
    workers = 1 if args.workers is None and args.cluster is None else args.workers
    work = Work(args.out, args.limit, workers, args.cluster, args.prefetch, args.retry_failed)
    finished = evaluate(plan, work, say)
    if args.json:
        emit(json.dumps(finished.summary, indent=1))
    else:
        emit(summary_text(finished.summary, args.out))
    return 1 if finished.failed or finished.missing else 0


def make_plan(args: argparse.Namespace) -> Any:
    """The plan that the arguments describe."""
    from alpamayo_rt.harness.plan import BASELINE, EvalPlan
    from alpamayo_rt.harness.predictors import BASELINES
    from alpamayo_rt.harness.sources import SourceSpec
    from alpamayo_rt.loading import check_engine, check_narrows, check_precision
    from alpamayo_rt.settings import Settings

    settings = Settings(**{name: getattr(args, name) for name in SETTING_NAMES})
    if args.model.startswith(BASELINE) and args.model.removeprefix(BASELINE) not in BASELINES:
        raise InputError(
            f"--model: {args.model}, expected {' or '.join(BASELINE + name for name in BASELINES)}"
        )
    check_engine(args.engine)
    check_precision(args.precision)
    parts = chosen_parts(args)
    check_narrows(parts, [args.precision])
    files = [(name, getattr(args, name)) for name in ENGINE_OPTIONS if getattr(args, name) is not None]
    threads = args.threads
    if threads is None and (args.workers or 1) > 1:
        threads = max(1, (os.cpu_count() or 1) // args.workers)
    return EvalPlan(
        model=args.model,
        engine=args.engine,
        precision=args.precision,
        device=args.device,
        source=SourceSpec(args.clips, args.dataset_root, parse_cameras(args.cameras)),
        settings=settings,
        counts=_counts(args.best_of, settings.num_candidates),
        warm_up=args.warm_up,
        threads=threads,
        pictures=not args.no_pictures,
        engine_files=tuple(files),
        parts=parts,
    )


def _counts(text: str | None, candidates: int) -> tuple[int, ...]:
    try:
        more = [int(word) for word in text.split(",")] if text else []
    except ValueError:
        more = [0]
    if any(not 1 <= count <= candidates for count in more):
        raise InputError(f"--best-of: {text}, expected numbers from 1 to --num-candidates {candidates}")
    # The published comparison looks at one and at six.
    usual = [count for count in (1, 6) if count <= candidates]
    return tuple(sorted({*usual, candidates, *more}))


def summary_text(summary: dict[str, Any], out: Path) -> str:
    """The figures of a run as tables."""
    rows = [
        (name, *(f"{m[key]:.3f}" for key in ("mean", "median", "p90")), "{:.3f} to {:.3f}".format(*m["ci95"]))
        for name, m in summary["metrics"].items()
    ]
    parts = [table(("metric", "mean", "median", "p90", "95 % of the mean"), rows)] if rows else []
    times = [
        (stage, *(f"{ms[q]:.1f}" for q in ("median", "p90", "p99")))
        for stage, ms in summary["milliseconds"].items()
    ]
    if times:
        steady = "steady state" if summary["timing"]["steady"] else "warm-up included, too few clips"
        parts.append(table((f"milliseconds, {steady}", "median", "p90", "p99"), times))
    counts = f"{summary['clips']} clip(s), {summary['failed']} failed, {summary['missing']} not here"
    waited = f"{100 * summary['timing']['waited_for_data']:.1f} % of the time waited for data"
    memory = ", ".join(f"{name} {gib:.2f} GiB" for name, gib in summary["peak_memory_gib"].items())
    parts.append(f"{counts}; {waited}; peak memory: {memory or 'unknown'}\n{out}")
    return "\n\n".join(parts)

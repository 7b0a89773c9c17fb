# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt bench`: times an engine, and says whether it has become slower."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from alpamayo_rt.cli.common import add_parts_argument, chosen_parts, emit, one_line, say, versions
from alpamayo_rt.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "bench", help="time stages and whole requests, against ceilings and earlier records", allow_abbrev=False
    )
    what = command.add_argument_group("what is timed")
    what.add_argument("--model", metavar="M", help="a checkpoint folder, a hub id, or nano, with its own input")
    what.add_argument(
        "--family", metavar="F",
        help="a family's model_type: its released sizes with random weights (default: Alpamayo 1.5)",
    )  # fmt: skip
    what.add_argument("--engine", default="auto", metavar="E", help="auto, eager or graphs (default: auto)")
    what.add_argument(
        "--precision", metavar="P,…", help="bf16, fp8, int4, fp32, fp16 (default: bf16,fp8; fp32 on the CPU)"
    )
    add_parts_argument(what)
    what.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")
    what.add_argument(
        "--workload", metavar="W,…", help="W6, W6m, W1, W6-18, W6-cached, W1-cached (default: all)"
    )
    for name in ("candidates", "steps", "tokens"):
        what.add_argument(f"--{name}", type=int, metavar="N", help="instead of the workloads' own")
    how = command.add_argument_group("how")
    how.add_argument("--repetitions", type=int, default=20, metavar="N", help="of each loop (default: 20)")
    how.add_argument("--warm-up", type=int, default=3, metavar="N", help="runs before (default: 3)")
    how.add_argument(
        "--pause", type=float, default=0.0, metavar="S",
        help="seconds that the device rests before each run (default: 0, one after the other)",
    )  # fmt: skip
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default: 0)")
    how.add_argument(
        "--soak", type=int, default=0, metavar="N", help="also N requests in a row of the first workload"
    )
    how.add_argument("--compare", action="store_true", help="also time the eager engine, over the same weights")
    how.add_argument(
        "--reference", type=Path, metavar="CHECKOUT", help="also time the public reference in this checkout"
    )
    how.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True,
        help="compare what was timed with a float32 pass (default: yes)",
    )  # fmt: skip
    out = command.add_argument_group("records")
    out.add_argument("--out", type=Path, metavar="RECORD", help="write the record")
    out.add_argument("--against", type=Path, metavar="RECORD", help="exit 1 where this run is slower than it")
    out.add_argument(
        "--max-regression", default="3%", metavar="P%", help="how much slower is allowed (default: 3%%)"
    )
    out.add_argument(
        "--record", type=Path, metavar="RECORD", help="take this record instead of timing anything"
    )
    out.add_argument("--table", action="store_true", help="print Markdown")
    out.add_argument("--json", action="store_true", help="print the record")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.bench.against import parse_share
    from alpamayo_rt.bench.record import pause_of, read_record

    allowed = parse_share(args.max_regression)
    earlier = None if args.against is None else read_record(args.against)
    if args.record is not None:
        record = read_record(args.record)
        _refuse_other(earlier, record["device"], pause_of(record), args)
    else:
        record = _measure(args, earlier)
    if args.json:
        emit(json.dumps(record, indent=1, allow_nan=False))
    elif args.table:
        from alpamayo_rt.bench.markdown import markdown

        emit(markdown(record))
    else:
        from alpamayo_rt.cli.bench_text import text

        emit(text(record))
    failed = [line for result in record["results"] for line in _failed_check(result)]
    failed += [f"not all was timed: {record['error']}"] if "error" in record else []
    if earlier is not None:
        from alpamayo_rt.bench.against import compare

        failed += [f"slower: {change}" for change in compare(earlier, record, allowed) if change.slower]
    for line in dict.fromkeys(failed):
        say(f"alpamayo-rt: {line}")
    return 1 if failed else 0


def _failed_check(result: dict[str, Any]) -> list[str]:
    check = result.get("check")
    if not check or check["passed"]:
        return []
    what = ", ".join(f"{name} {check[name]:.2e} (eager {check['eager'][name]:.2e})" for name in check["failed"])
    return [f"check failed: {result['family']} {result['engine']} {result['precision']}: {what}"]


def _refuse_other(
    earlier: dict[str, Any] | None, device: str, pause_s: float, args: argparse.Namespace
) -> None:
    """A record of another device, or of other circumstances."""
    from alpamayo_rt.bench.against import same_device, same_pause

    if earlier is not None:
        same_device(earlier, device, str(args.against))
        same_pause(earlier, pause_s, str(args.against))


def _measure(args: argparse.Namespace, earlier: dict[str, Any] | None) -> dict[str, Any]:
    from alpamayo_rt.atomic import check_writable
    from alpamayo_rt.bench.record import clocks, device_name, new_record, write_record
    from alpamayo_rt.bench.run import job_ceilings, run_job

    job = _job(args)
    _refuse_other(earlier, device_name(job.device), job.pause_s, args)
    if args.out is not None:
        check_writable(args.out)
    record = new_record(job.device, f"alpamayo-rt {shlex.join(sys.argv[1:])}", versions())
    ceilings = job_ceilings(job, _progress)
    record["ceilings"] = ceilings.to_json()
    try:
        run_job(job, ceilings, _progress, record["results"].append)
        if args.reference is not None:
            record["results"].append(_time_reference(args, job))
    except Exception as error:
        # Minutes on a rare machine: what is complete is kept, and says what is not.
        if not record["results"]:
            raise
        record["error"] = one_line(f"{type(error).__name__}: {error}")[:500]
    record["clocks"] = clocks(job.device)
    if args.out is not None:
        write_record(args.out, record)
        say(f"wrote {args.out}")
    return record


def _progress(line: str) -> None:
    say(f"[bench] {line}")


def _time_reference(args: argparse.Namespace, job: Any) -> dict[str, Any]:
    from alpamayo_rt.bench.reference import time_reference
    from alpamayo_rt.bench.workloads import choose_workloads

    (workload,) = choose_workloads(["W6"], False, job.candidates, job.tokens, job.steps)
    return time_reference(args.reference, job.family, workload, job.device, job.seed, _progress, job.pause_s)


_LOWEST = {
    "repetitions": 1, "warm_up": 1, "soak": 0, "candidates": 1, "steps": 1, "tokens": 2, "seed": 0,
}  # fmt: skip


_LONGEST_PAUSE_S = 60


def _job(args: argparse.Namespace) -> Any:
    from alpamayo_rt.bench.run import Job
    from alpamayo_rt.bench.subject import default_precisions
    from alpamayo_rt.families import FAMILIES
    from alpamayo_rt.loading import check_engine, check_narrows, check_precision, find_device

    for name, low in _LOWEST.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')}: {value}, expected a whole number from {low} on")
    if not 0 <= args.pause <= _LONGEST_PAUSE_S:
        raise InputError(f"--pause: {args.pause:g}, expected seconds from 0 to {_LONGEST_PAUSE_S}")
    if args.model is not None and args.family is not None:
        raise InputError("--family: given with --model, whose family it is; expected one of them")
    if args.reference is not None and not args.reference.is_dir():
        raise InputError(f"--reference: {args.reference} is no folder, expected a checkout of it")
    if args.reference is not None and args.model is not None:
        raise InputError("--reference: given with --model, but it is timed with random weights of --family")
    device = find_device(args.device)
    check_engine(args.engine)
    precisions = _names(args.precision, "--precision") or tuple(default_precisions(device))
    for precision in precisions:
        check_precision(precision)
    parts = chosen_parts(args)
    check_narrows(parts, precisions)
    family = args.family if args.model is not None or args.family is not None else next(iter(FAMILIES))
    return Job(
        args.model, family, precisions, args.engine, _names(args.workload, "--workload"), device,
        args.repetitions, args.warm_up, args.candidates, args.tokens, args.steps, args.compare, args.check,
        args.soak, args.seed, parts, args.pause,
    )  # fmt: skip


def _names(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise InputError(f"{option}: {text!r}, expected different names with commas between them")
    return names

# SPDX-License-Identifier: Apache-2.0
"""The 300-sample table of nano in the demo world: every engine and precision through the evaluation harness.

Run `python benchmarks/nano_evaluation.py --out DIR` on a machine with a GPU (or with `--only` on any): it
evaluates each engine in turn, goes on where it was interrupted, compares each with eager float32, and, where
the number of clips leaves the FP8 engine undecided, takes as many as decide. Each run's summary and
comparison become a JSON file in `--records`; `docs/evaluation.md` quotes them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from alpamayo_rt.errors import AlpamayoError
from alpamayo_rt.evaluation.summary import summarize
from alpamayo_rt.harness import report_html
from alpamayo_rt.harness.compare_runs import Comparison, compare_runs
from alpamayo_rt.harness.evaluate import Work, evaluate
from alpamayo_rt.harness.plan import EvalPlan
from alpamayo_rt.harness.report_data import compare_views, view
from alpamayo_rt.harness.run_folder import RUN, SUMMARY, read_run
from alpamayo_rt.harness.sources import SourceSpec
from alpamayo_rt.settings import Settings

MEASURE = "eager-fp32"
DECIDED = "graphs-fp8"
RUNS = {
    MEASURE: ("nano", "eager", "fp32"),
    "eager-bf16": ("nano", "eager", "bf16"),
    "graphs-bf16": ("nano", "graphs", "bf16"),
    DECIDED: ("nano", "graphs", "fp8"),
    "constant-velocity": ("baseline:constant-velocity", "auto", "auto"),
    "constant-turn-rate": ("baseline:constant-turn-rate", "auto", "auto"),
}


def main() -> int:
    """Run what is asked for; 1 where a run could not be done or failed on a clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="for the run folders and the report")
    parser.add_argument("--records", type=Path, help="for the JSON files (default: records in --out)")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--most", type=int, default=6000, help="clips at most to decide on FP8")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prefetch", type=int, default=12)
    parser.add_argument("--table", type=Path, metavar="RECORDS", help="print the table of records, run nothing")
    args = parser.parse_args()
    if args.table is not None:
        print(table(args.table))
        return 0
    if args.out is None:
        parser.error("--out is missing")
    args.out.mkdir(parents=True, exist_ok=True)
    bad = [name for name in args.only if not run(name, args.clips, args)]
    found = {name: compare(name, args) for name in args.only if name != MEASURE and name not in bad}
    clips = args.clips
    while (asked := undecided(found.get(DECIDED))) is not None and clips < args.most:
        clips = min(max(int(asked * 1.1), clips + 100), args.most)
        say(f"{DECIDED} is undecided: {clips} clips")
        if not (run(MEASURE, clips, args) and run(DECIDED, clips, args)):
            bad.append(DECIDED)
            break
        found[DECIDED] = compare(DECIDED, args)
    write(found, args)
    return 1 if bad else 0


def run(name: str, clips: int, args: argparse.Namespace) -> bool:
    """Evaluate one engine; what stops it is said, and the others go on."""
    model, engine, precision = RUNS[name]
    source = SourceSpec(f"world-live:0:{clips}")
    plan = EvalPlan(model, engine, precision, args.device, source, Settings(), (1, 6), threads=1)
    begun = time.perf_counter()
    try:
        finished = evaluate(plan, Work(args.out / name, prefetch=args.prefetch), _every(50))
    except AlpamayoError as error:
        say(f"{name}: {error}")
        return False
    best = finished.summary["metrics"]["min_ade_6"]
    ms = finished.summary["milliseconds"].get("total", {}).get("median", 0.0)
    say(f"{name}: minADE6 {best['mean']:.4f} m, {ms:.1f} ms a clip, {time.perf_counter() - begun:.0f} s in all")
    return not finished.failed


def compare(name: str, args: argparse.Namespace) -> Comparison | None:
    """Against eager float32, where that was run."""
    if not (args.out / MEASURE / RUN).is_file():
        return None
    found = compare_runs(args.out / MEASURE, args.out / name)
    v = found.verdict
    interval = f"{100 * v.change:+.2f} % ({100 * v.low:+.2f} to {100 * v.high:+.2f} %)"
    say(f"{name} against {MEASURE}: {v.verdict}, {interval}")
    return found


def undecided(found: Comparison | None) -> int | None:
    """How many clips would decide, None where that is not the question."""
    return None if found is None else found.verdict.clips_to_decide


def write(found: dict[str, Comparison | None], args: argparse.Namespace) -> None:
    """Records, and one report over all runs."""
    records = args.records or args.out / "records"
    records.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        folder = args.out / name
        if not (folder / SUMMARY).is_file():
            continue
        header, rows = read_run(args.out / name)
        write_record(records / f"{name}.json", header, rows, args.clips, found.get(name))
    views = [view(args.out / name) for name in RUNS if (args.out / name / SUMMARY).is_file()]
    if views:
        (args.out / "report.html").write_text(report_html.page(views, compare_views(views)))
    say(f"{records}, {args.out / 'report.html'}")


def write_record(
    path: Path, header: dict[str, Any], rows: list[dict[str, Any]], clips: int, against: Comparison | None
) -> None:
    """One run's JSON: its first clips summed up, and the comparison over all that it took to decide."""
    first = [row for row in rows if int(row["clip_id"].rsplit("-", 1)[-1]) < clips]
    record = {
        "command": " ".join(["python", *sys.argv]),
        "run": header,
        "summary": summarize(first),
        "against": None if against is None else against.to_json() | {"a": MEASURE, "b": path.stem},
    }
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def table(records: Path) -> str:
    """The table of `docs/evaluation.md`."""
    lines = [
        "| run | device | clips | minADE6, m (95 %) | median | minADE1, m | misses at 2 m | true cause named "
        "| total, ms | against eager float32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(records.glob("*.json"), key=_place):
        record = json.loads(path.read_text())
        s, m = record["summary"], record["summary"]["metrics"]
        low, high = m["min_ade_6"]["ci95"]
        named = f"{100 * m['cause_right']['mean']:.1f} %" if "cause_right" in m else "–"
        ms = f"{s['milliseconds']['total']['median']:,.0f}" if s["milliseconds"] else "–"
        verdict = "–"
        if record["against"] is not None:
            v = next(c for c in record["against"]["changes"] if c["name"] == record["against"]["main"])
            span = f"{100 * v['change']:+.2f} % ({100 * v['low']:+.2f} to {100 * v['high']:+.2f})"
            verdict = f"{v['verdict']}: {span}, {v['clips']} clips"
        lines.append(
            f"| {path.stem} | {record['run']['device']} | {s['clips']} | {m['min_ade_6']['mean']:.3f} "
            f"({low:.3f} to {high:.3f}) | {m['min_ade_6']['median']:.3f} | {m['min_ade_1']['mean']:.3f} "
            f"| {100 * m['miss_rate_6']['mean']:.1f} % | {named} | {ms} | {verdict} |"
        )
    return "\n".join(lines)


def _place(path: Path) -> tuple[int, str]:
    names = list(RUNS)
    return next((i for i, name in enumerate(names) if path.stem.startswith(name)), len(names)), path.stem


def say(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def _every(step: int):
    """Progress of a run, not of each clip."""
    seen = [0]

    def told(line: str) -> None:
        seen[0] += 1
        if not line.startswith("[") or seen[0] % step == 0:
            say(line)

    return told


if __name__ == "__main__":
    sys.exit(main())

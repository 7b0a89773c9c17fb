# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt world`: `make` writes clips of the demo world, `score` measures a model in it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.cli.common import add_model_arguments, load_model, result_file, run_header, say, table
from alpamayo_rt.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    group = commands.add_parser("world", help="the demo driving world", allow_abbrev=False)
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    make = actions.add_parser(
        "make", help="write demo clips in the dataset's layout; goes on where it was", allow_abbrev=False
    )
    make.add_argument("--clips", type=int, required=True, metavar="N", help="number of clips")
    make.add_argument("--seed", type=int, default=0, metavar="S", help="of the world (default: 0)")
    make.add_argument("--out", type=Path, required=True, metavar="ROOT", help="the dataset's root")
    make.add_argument("--split", default="test", choices=("test", "train"), help="default: test")
    make.add_argument("--device", default="auto", help="where frames are drawn: auto, cpu, cuda")
    make.set_defaults(run=run)
    drive = actions.add_parser(
        "drive", help="drive the clips that make has written, against the true future", allow_abbrev=False
    )
    add_model_arguments(drive)
    drive.add_argument("--dataset-root", type=Path, required=True, metavar="ROOT", help="what make has written")
    drive.add_argument("--out", type=Path, metavar="DIR", help="one picture a clip, and results.json")
    drive.set_defaults(run=run_drive)
    score = actions.add_parser(
        "score", help="measure a model on test clips, drawn in memory", allow_abbrev=False
    )
    add_model_arguments(score)
    score.add_argument(
        "--clips", "--limit", type=int, default=60, metavar="N", help="number of clips (default: 60; all: 300)"
    )
    score.add_argument("--seed", type=int, default=0, metavar="S", help="of the world (default: 0)")
    score.add_argument("--out", type=Path, metavar="FILE", help="one JSON line a clip; goes on where it was")
    score.add_argument("--json", action="store_true", help="print the table as JSON")
    score.set_defaults(run=run_score)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.clips < 1:
        raise InputError(f"--clips: {args.clips}, expected a whole number from 1 on")
    if args.seed < 0:
        raise InputError(f"--seed: {args.seed}, expected 0 or more")
    from alpamayo_rt.demo.recording import write_world
    from alpamayo_rt.loading import find_device

    device = find_device(args.device)
    for n, (clip, new) in enumerate(write_world(args.out, args.clips, args.seed, args.split, device), 1):
        say(f"[{n}/{args.clips}] {clip}{'' if new else ' is there already'}")
    print(f"{args.clips} clip(s) in {args.out}")
    return 0


def run_drive(args: argparse.Namespace) -> int:
    """Drive written clips and print what the model says and how near it comes."""
    from alpamayo_rt.demo.drive import drive_world
    from alpamayo_rt.sample.clip_writer import DatasetWriter

    if not args.dataset_root.is_dir():
        raise InputError(f"--dataset-root: {args.dataset_root} is not a folder; make it with world make")
    clips = sorted(DatasetWriter(args.dataset_root).written())
    if not clips:
        raise InputError(f"--dataset-root: {args.dataset_root} holds no clips; make some with world make")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    model = load_model(args)
    errors, responses = [], []
    for driven in drive_world(model, args.dataset_root, clips, args.out):
        told = f", told “{driven.navigation}”" if driven.navigation else ""
        print(f"{driven.clip_id} (true cause: {driven.cause.replace('_', ' ')}{told})")
        print(f"  {driven.result.reasoning[0]}   minADE6 {driven.min_ade:.2f} m over 6.4 s", flush=True)
        errors.append(driven.min_ade)
        responses.append(driven.response())
    print(f"mean minADE6 of {len(errors)} clip(s): {sum(errors) / len(errors):.2f} m")
    if args.out is not None:
        write_atomically(args.out / "results.json", (result_file(run_header(model), responses) + "\n").encode())
        print(f"pictures and results.json: {args.out}")
    return 0


def run_score(args: argparse.Namespace) -> int:
    """Score a model; 1 where a criterion is missed."""
    if args.clips < 1:
        raise InputError(f"--clips: {args.clips}, expected a whole number from 1 on")
    if args.seed < 0:
        raise InputError(f"--seed: {args.seed}, expected 0 or more")
    from alpamayo_rt.demo.score import acceleration_quantiles, score_clip
    from alpamayo_rt.demo.score_table import summarize
    from alpamayo_rt.demo.world import World

    model = load_model(args)
    header = {**run_header(model), "seed": args.seed}
    done = _scored(args.out, header)
    world, accels = World(args.seed, "test"), acceleration_quantiles(args.seed)
    for index in range(args.clips):
        if index in done:
            continue
        done[index] = clip = score_clip(model, world, index, accels)
        verdict = "right" if clip["named"] == clip["cause"] else f"named {clip['named']}"
        say(f"[{index + 1}/{args.clips}] {clip['cause']}: {verdict}, minADE6 {min(clip['ade']):.2f} m")
        if args.out is not None:
            with args.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(clip) + "\n")
    rows = summarize([done[index] for index in range(args.clips)])
    if args.json:
        print(json.dumps({**header, "clips": args.clips, "table": [row.to_json() for row in rows]}, indent=1))
    else:
        said = {True: "pass", False: "FAIL", None: ""}
        lines = [
            (row.name, f"{row.value:.3f}", str(row.clips), row.criterion, said[row.passed]) for row in rows
        ]
        print(table(("measure", "value", "clips", "criterion", ""), lines))
    return 1 if any(row.passed is False for row in rows) else 0


def _scored(out: Path | None, header: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """What an interrupted run has left in `out`, by clip; its first line says what was run."""
    if out is None:
        return {}
    if not out.exists() or not out.stat().st_size:
        out.write_text(json.dumps(header) + "\n", encoding="utf-8")
        return {}
    lines = out.read_text(encoding="utf-8").splitlines()
    try:
        rows = [json.loads(line) for line in lines if line]
    except json.JSONDecodeError:
        raise InputError(f"--out: {out} is not what this command writes; remove it") from None
    if rows[0] != header:
        raise InputError(f"--out: {out} belongs to another model, world, device or version; remove it")
    return {row["index"]: row for row in rows[1:]}

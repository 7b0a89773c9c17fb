# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt data`: which clips there are, bringing some here, and whether they are whole."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from alpamayo_rt.cli.camera_list import parse_cameras
from alpamayo_rt.cli.common import emit, say, table
from alpamayo_rt.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    group = commands.add_parser(
        "data", help="clips of the dataset: list, select, fetch, verify", allow_abbrev=False,
        description="Clips of PhysicalAI-Autonomous-Vehicles through the dataset's kit (alpamayo-rt[data]). "
        "See docs/evaluation.md.",
    )  # fmt: skip
    actions = group.add_subparsers(title="actions", metavar="ACTION", required=True)
    shown = actions.add_parser("list", help="print clips and what is known of them", allow_abbrev=False)
    chosen = actions.add_parser(
        "select", help="write a list of clips, and say how large they are", allow_abbrev=False
    )
    fetched = actions.add_parser("fetch", help="bring clips here; goes on where it was", allow_abbrev=False)
    checked = actions.add_parser("verify", help="read what is here and compare checksums", allow_abbrev=False)
    for action, run in ((shown, run_list), (chosen, run_select), (fetched, run_fetch), (checked, run_verify)):
        _add_selection(action)
        action.set_defaults(run=run)
    shown.add_argument("--json", action="store_true", help="print as JSON")
    chosen.add_argument("--out", type=Path, required=True, metavar="LIST", help=".parquet, .csv, .json or .txt")
    chosen.add_argument("--no-estimate", action="store_true", help="do not ask the hub for sizes")
    fetched.add_argument("--dry-run", action="store_true", help="say how much it is, and fetch nothing")
    fetched.add_argument(
        "--only-clips", action="store_true", help="read the clips alone out of the dataset's large files"
    )
    fetched.add_argument(
        "--max-gib", type=float, default=100.0, metavar="N", help="fetch no more than this (100)"
    )
    checked.add_argument(
        "--remove", action="store_true", help="remove what is damaged, so that fetch brings it anew"
    )


def _add_selection(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--dataset-root", type=Path, required=True, metavar="ROOT", help="the hub cache to read or fill"
    )
    action.add_argument("--revision", metavar="R", help="of the dataset (default: what is here, else main)")
    action.add_argument(
        "--clips", type=Path, metavar="LIST", help="only those of a list (parquet, CSV, JSON, text)"
    )
    action.add_argument("--split", metavar="S", help="only of this split")
    action.add_argument("--country", metavar="C", help="only recorded there")
    action.add_argument("--hours", metavar="A-B", help="only recorded from hour A to before hour B")
    action.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", help="any column of the tables"
    )
    action.add_argument("--number", type=int, metavar="N", help="so many of them, drawn with --seed")
    action.add_argument("--seed", type=int, default=0, metavar="S", help="of the drawing (default: 0)")
    action.add_argument("--cameras", default="0,1,2,6", metavar="C,C", help="camera numbers (default: 0,1,2,6)")


def selection_of(args: argparse.Namespace) -> Any:
    """What the arguments select."""
    from alpamayo_rt.harness.selection import Selection

    cameras = parse_cameras(args.cameras)
    if args.number is not None and args.number < 1:
        raise InputError(f"--number: {args.number}, expected a whole number from 1 on")
    if args.seed < 0:
        raise InputError(f"--seed: {args.seed}, expected 0 or more")
    where = []
    for text in args.where:
        column, sign, value = text.partition("=")
        if not sign or not column or not value:
            raise InputError(f"--where: {text!r}, expected COLUMN=VALUE")
        where.append((column, value))
    return Selection(
        args.clips, args.split, args.country, _hours(args.hours), tuple(where), args.number, args.seed, cameras
    )


def _hours(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, end = text.partition("-")
    if not (first.isdigit() and end.isdigit() and int(first) <= 23 and int(end) <= 24 and first != end):
        raise InputError(f"--hours: {text!r}, expected two hours such as 6-9 or 22-5")
    return int(first), int(end)


def _open(args: argparse.Namespace, hub: bool, tables_here: bool = True) -> tuple[Any, list[Any], list[Any]]:
    from alpamayo_rt.harness.hub_dataset import open_hub, open_tables
    from alpamayo_rt.harness.selection import select

    selection = selection_of(args)
    if selection.clips is not None and not selection.clips.is_file():
        raise InputError(f"--clips: no file {selection.clips}, expected a list of clips")
    _quiet_bars()
    where = args.dataset_root if tables_here else None
    kit = open_hub(where, args.revision) if hub else open_tables(args.dataset_root, args.revision)
    refs, unknown = select(kit, selection)
    if unknown:
        names = ", ".join(ref.clip_id for ref in unknown[:3]) + (", …" if len(unknown) > 3 else "")
        say(f"{len(unknown)} clip(s) are not in the dataset's index: {names}")
    return kit, refs, unknown


def _quiet_bars() -> None:
    # The hub's bars redraw themselves, which makes a mess of a log file.
    if not sys.stderr.isatty():
        from alpamayo_rt.sample.offline_kit import require_data_extra

        require_data_extra()
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()


def run_list(args: argparse.Namespace) -> int:
    """Print the clips."""
    from alpamayo_rt.harness.fetch import files_of
    from alpamayo_rt.harness.hub_dataset import snapshot_of
    from alpamayo_rt.harness.selection import describe

    kit, refs, unknown = _open(args, hub=False)
    cameras = selection_of(args).cameras
    here = {
        name: (snapshot_of(args.dataset_root, kit) / name).is_file() for name in files_of(kit, refs, cameras)
    }
    rows = []
    for ref in refs:
        complete = all(here[name] for name in files_of(kit, [ref], cameras))
        rows.append({"clip_id": ref.clip_id, "t0_us": ref.t0_us, "here": complete, **describe(kit, ref)})
    if args.json:
        emit(json.dumps(rows, indent=1))
    else:
        columns = [c for c in dict.fromkeys(key for row in rows for key in row) if c != "t0_us"]
        emit(table(columns, [[_word(row.get(column)) for column in columns] for row in rows]))
    say(f"{len(rows)} clip(s), {sum(row['here'] for row in rows)} of them here")
    return 1 if unknown else 0


def _word(value: Any) -> str:
    return {True: "yes", False: "no", None: ""}.get(value, str(value)) if not isinstance(value, str) else value


def run_select(args: argparse.Namespace) -> int:
    """Write a list."""
    from alpamayo_rt.harness.clip_list import SUFFIXES, write_list
    from alpamayo_rt.harness.fetch import estimate
    from alpamayo_rt.harness.hub_dataset import open_hub

    if args.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out: {args.out}, expected a name that ends in {', '.join(SUFFIXES)}")
    _, refs, unknown = _open(args, hub=False)
    write_list(args.out, refs)
    emit(f"{len(refs)} clip(s) in {args.out}")
    if not args.no_estimate:
        online = open_hub(args.dataset_root, args.revision)
        emit(estimate(online, args.dataset_root, refs, selection_of(args).cameras).text())
    return 1 if unknown else 0


def run_fetch(args: argparse.Namespace) -> int:
    """Bring clips here; 1 where some did not come."""
    if args.only_clips:
        return _fetch_only_clips(args)
    from alpamayo_rt.harness.fetch import GIB, estimate, fetch

    kit, refs, unknown = _open(args, hub=True)
    plan = estimate(kit, args.dataset_root, refs, selection_of(args).cameras)
    emit(plan.text())
    if args.dry_run:
        return 1 if unknown else 0
    if plan.bytes_left > args.max_gib * GIB:
        raise InputError(
            f"--max-gib: {args.max_gib:g}, but {plan.bytes_left / GIB:.1f} GiB are to be fetched; allow them"
        )
    done = fetch(kit, args.dataset_root, plan, say)
    emit(f"{done.files} file(s) fetched and compared with their checksums")
    return _told(done, unknown)


def _told(done: Any, unknown: list[Any]) -> int:
    for name, cause in done.failed:
        emit(f"failed: {name} ({cause})")
    if done.failed:
        say("run the same command again to go on where it was")
    return 1 if done.failed or unknown else 0


def _fetch_only_clips(args: argparse.Namespace) -> int:
    from alpamayo_rt.harness.extract import clip_bytes, extract
    from alpamayo_rt.harness.fetch import GIB, size_text

    kit, refs, unknown = _open(args, hub=True, tables_here=False)
    cameras = parse_cameras(args.cameras)
    if args.dry_run:
        alone = size_text(clip_bytes(kit, refs, cameras, say))
        emit(f"{len(refs)} clip(s), {alone} without the files around them")
        return 1 if unknown else 0
    done = extract(kit, args.dataset_root, refs, cameras, args.max_gib * GIB, say)
    emit(f"{done.files} clip(s) fetched")
    return _told(done, unknown)


def run_verify(args: argparse.Namespace) -> int:
    """Read everything; 1 where something is missing or damaged."""
    from alpamayo_rt.errors import DatasetError
    from alpamayo_rt.harness.fetch import remove, verify
    from alpamayo_rt.harness.hub_dataset import local_revision, snapshot_of

    if local_revision(args.dataset_root) is None:
        raise DatasetError(f"dataset_root: {args.dataset_root} holds no clips, fetch some first")
    kit, refs, unknown = _open(args, hub=False)
    cameras = selection_of(args).cameras
    if args.clips is None:  # the index names all clips of the dataset: what was never fetched is not damaged
        from alpamayo_rt.harness.fetch import files_of

        snapshot = snapshot_of(args.dataset_root, kit)
        refs = [r for r in refs if any((snapshot / name).is_symlink() or (snapshot / name).is_file()
                                       for name in files_of(kit, [r], cameras))]  # fmt: skip
    files, wrong = verify(kit, args.dataset_root, refs, cameras, say)
    for path, found, clips in wrong:
        emit(f"{path} {found} ({len(clips)} clip(s))")
        if args.remove and found != "is not here":
            remove(path)
    removed = f", {sum(found != 'is not here' for _, found, _ in wrong)} removed" if args.remove else ""
    emit(f"{len(refs)} clip(s), {files} file(s), {len(wrong)} missing or damaged{removed}")
    return 1 if wrong or unknown else 0

# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt world make`: clips of the demo world in the dataset's layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from alpamayo_rt.cli.common import say
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

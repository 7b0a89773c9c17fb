# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt calibrate`: how large the inputs of the linear layers get on clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from alpamayo_rt.atomic import check_writable
from alpamayo_rt.cli.clip_source import HELP, read_clips
from alpamayo_rt.cli.common import say


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "calibrate", help="measure activations on clips, for static scales", allow_abbrev=False
    )
    command.add_argument("--model", required=True, metavar="M", help="a checkpoint folder, a hub id, or nano")
    add_calibration_arguments(command, required=True)
    command.add_argument(
        "--parts", default="language,vision,expert", metavar="P,…", help="default: language,vision,expert"
    )
    command.add_argument("--out", type=Path, required=True, metavar="F", help="the file, calibration.json say")
    command.set_defaults(run=run)


def add_calibration_arguments(command: argparse.ArgumentParser, required: bool) -> None:
    """`--clips`, `--max-clips`, `--device`."""
    command.add_argument("--clips", required=required, metavar="SOURCE", help=HELP)
    command.add_argument("--max-clips", type=int, metavar="N", help="the first N clips (default: all)")
    command.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.loading import find_device, load
    from alpamayo_rt.quantization.calibration import calibrate
    from alpamayo_rt.quantization.parts import check_parts

    parts = check_parts(args.parts.split(","))
    check_writable(args.out)
    clips = read_clips(args.clips, args.max_clips, find_device(args.device))
    model = load(args.model, "eager", device=args.device, progress=say)
    calibrate(model, clips, parts, say).save(args.out)
    say(f"wrote {args.out}")
    return 0

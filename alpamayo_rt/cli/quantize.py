# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt quantize`: a checkpoint with FP8 or INT4 weights, which loads as it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from alpamayo_rt.cli.common import say


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "quantize", help="write a checkpoint with FP8 or INT4 weights", allow_abbrev=False
    )
    command.add_argument("--model", required=True, metavar="M", help="a checkpoint folder, a hub id, or nano")
    command.add_argument("--precision", required=True, metavar="P", help="fp8 or int4")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    command.add_argument(
        "--calibration",
        type=Path,
        metavar="F",
        help="fp8: what alpamayo-rt calibrate wrote, for fixed input scales (default: one scale a token)",
    )
    command.add_argument("--parts", default="language", metavar="P,…", help="default: language")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.checkpoint import empty_network, open_checkpoint
    from alpamayo_rt.errors import InputError
    from alpamayo_rt.quantization.calibration import read_calibration
    from alpamayo_rt.quantization.parts import check_parts, linear_layers
    from alpamayo_rt.quantization.plan import Plan
    from alpamayo_rt.quantization.saving import check_new_folder, save_quantized

    parts = check_parts(args.parts.split(","))
    check_new_folder(args.out)
    checkpoint = open_checkpoint(args.model)
    layers = linear_layers(empty_network(checkpoint), args.precision, parts)
    amax = None
    if args.calibration is not None:
        if args.precision != "fp8":
            raise InputError(f"--calibration: goes with precision fp8, not with {args.precision}")
        calibration = read_calibration(args.calibration)
        calibration.check_model(checkpoint.fingerprint())
        amax = {name: calibration.amax(name) for name in layers}
    plan = Plan(args.precision, parts, amax, amax is not None)
    save_quantized(checkpoint, args.out, plan, say)
    say(f"wrote {args.out}: {len(layers)} linear layers of {', '.join(parts)} in {args.precision}")
    return 0

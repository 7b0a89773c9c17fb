# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt export`: the parts of a checkpoint as ONNX files."""

from __future__ import annotations

import argparse
from pathlib import Path

from alpamayo_rt.cli.common import say

PARTS = "vision,language,expert"


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "export",
        help="write vision tower, language model and expert as ONNX",
        description="Writes OUT/config.json, the tokenizer's files and OUT/PART/model.onnx (docs/export.md).",
        allow_abbrev=False,
    )
    command.add_argument("--model", required=True, metavar="M", help="a checkpoint folder, a hub id, or nano")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    command.add_argument("--parts", default=PARTS, metavar="P,…", help=f"default: {PARTS}")
    command.add_argument(
        "--precision", default="fp16", metavar="P", help="fp32, fp16, bf16 or fp8 (default: fp16)"
    )
    command.add_argument(
        "--contract", default="shared", metavar="C",
        help="of the expert: fused, shared or shared-loop (default: shared)",
    )  # fmt: skip
    command.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="Euler steps of shared-loop (default: as the model's config says)",
    )
    command.add_argument(
        "--calibration", type=Path, metavar="F", help="what alpamayo-rt calibrate wrote; fp8 needs it"
    )
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.checkpoint import open_checkpoint
    from alpamayo_rt.export.run import export_model
    from alpamayo_rt.quantization.calibration import read_calibration

    calibration = None if args.calibration is None else read_calibration(args.calibration)
    parts = [part.strip() for part in args.parts.split(",")]
    checkpoint = open_checkpoint(args.model)
    export_model(
        checkpoint, args.out, parts, args.precision, args.contract, args.steps, calibration, progress=say
    )
    return 0

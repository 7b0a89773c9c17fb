# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt build-engine`: ONNX files → TensorRT engines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from alpamayo_rt.cli.common import emit, say, table
from alpamayo_rt.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "build-engine",
        help="build TensorRT engines from an export's ONNX files",
        description="Writes <part>/<target>.engine and its description for every exported part of a folder.",
        allow_abbrev=False,
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="as `alpamayo-rt export --out` wrote it")
    command.add_argument("--target", required=True, metavar="T", help="the GPU: sm110, sm120, sm89 …")
    command.add_argument(
        "--backend",
        choices=("tensorrt", "tensorrt-rtx"),
        help="tensorrt builds on its GPU, tensorrt-rtx anywhere (default: tensorrt where it is installed)",
    )
    command.add_argument(
        "--parts", metavar="P,P", help="vision, language, expert (default: all that are there)"
    )
    command.add_argument(
        "--profile", action="append", default=[], metavar="NAME=MIN:OPT:MAX", help="sizes of a dimension"
    )
    command.add_argument("--workspace-mib", type=int, metavar="N", help="scratch memory of an engine at most")
    command.add_argument(
        "--timing-cache", type=Path, metavar="F", help="full TensorRT's measurements, read and extended"
    )
    command.add_argument("--json", action="store_true", help="print the descriptions as JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.engine.bindings import PARTS
    from alpamayo_rt.tensorrt.build import Limits
    from alpamayo_rt.tensorrt.folder import build_part, find_parts
    from alpamayo_rt.tensorrt.library import installed_backend, open_library
    from alpamayo_rt.tensorrt.profiles import parse_ranges
    from alpamayo_rt.tensorrt.targets import check_target

    wanted = [] if args.parts is None else args.parts.split(",")
    for part in wanted:
        if part not in PARTS:
            raise InputError(f"--parts: {part!r}, expected some of {', '.join(PARTS)}")
    if args.workspace_mib is not None and args.workspace_mib < 1:
        raise InputError(f"--workspace-mib: {args.workspace_mib}, expected a whole number from 1 on")
    ranges = parse_ranges(args.profile)
    backend = args.backend or installed_backend()
    check_target(args.target, backend, str(args.folder))
    parts = find_parts(args.folder, wanted)
    library = open_library(backend)
    if args.timing_cache is not None and backend == "tensorrt-rtx":
        say("--timing-cache is ignored: TensorRT for RTX measures nothing while it builds")
    limits = Limits(args.workspace_mib, args.timing_cache)
    built = [build_part(library, part, path, args.target, ranges, limits, say) for part, path in parts.items()]
    if args.json:
        emit(json.dumps([sidecar.to_json() for sidecar in built]))
        return 0
    rows = [
        [
            s.recipe.part,
            " ".join(filter(None, (s.recipe.contract, s.recipe.precision))),
            args.target,
            f"{s.recipe.backend} {s.recipe.tensorrt}",
            f"{s.bytes / 2**20:.1f} MiB",
            f"{s.build['seconds']} s",
        ]
        for s in built
    ]
    emit(table(("part", "built as", "target", "by", "size", "took"), rows))
    return 0

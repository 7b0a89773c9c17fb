# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt replay`: runs the expert alone on cache dumps and compares the actions."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from alpamayo_rt.cli.common import add_engine_arguments, add_model_arguments, emit, load_model, say, table


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "replay", help="run the expert alone on a cache dump and compare its actions", allow_abbrev=False
    )
    command.add_argument("dumps", nargs="+", type=Path, metavar="DUMP", help="files that --dump-kv-cache wrote")
    add_model_arguments(command, required=False)
    add_engine_arguments(command)
    command.add_argument("--json", action="store_true", help="print JSON, with the replayed trajectories")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.dump import check_fits, read_dump

    dumps = [read_dump(path) for path in args.dumps]
    # Only the expert runs, so only the expert is loaded.
    model = load_model(args, only=("expert.", "action_space."))
    for dump in dumps:
        check_fits(model, dump)
    found = [_replay(model, dump) for dump in dumps]
    if args.json:
        emit(json.dumps([_as_json(r) for r in found], indent=1, allow_nan=False))
    else:
        rows = [
            (
                r["dump"],
                str(r["candidates"]),
                str(r["steps"]),
                f"{r['relative_l2']:.2e}",
                f"{r['bound']:.0e}",
                "pass" if r["passed"] else "FAIL",
            )
            for r in found
        ]
        emit(table(("dump", "candidates", "steps", "actions, relative L2", "bound", ""), rows))
    return 0 if all(r["passed"] for r in found) else 1


def _as_json(found: dict[str, Any]) -> dict[str, Any]:
    if math.isfinite(found["relative_l2"]):
        return found
    # JSON has no infinity: nothing that can be compared came out, so nothing is shown.
    return found | {"relative_l2": None, "actions": None, "trajectories": None}


def _replay(model: Any, dump: Any) -> dict[str, Any]:
    from alpamayo_rt.dump import replay
    from alpamayo_rt.verify.rows import bounds_of, relative_l2

    if dump.metadata["hash"] != model.provenance()["hash"]:
        say(f"warning: {dump.path} was made by another model ({dump.metadata.get('model', '?')})")
    action = replay(model, dump)
    error = relative_l2(action, dump.tensors["action"])
    # A dump made in a lower precision cannot be met closer than that precision allows.
    made_in = dump.metadata.get("precision", "fp32")
    bounds = [bounds_of(precision) for precision in (model.engine.precision, made_in)]
    bound = max(known.action for known in bounds if known is not None)
    xyz, _ = model.unicycle.integrate(action, dump.tensors["history_xyz"], dump.tensors["history_rot"])
    return {
        "dump": str(dump.path),
        "candidates": len(action),
        "steps": dump.steps,
        "relative_l2": error,
        "bound": bound,
        "passed": error <= bound,
        "actions": model.unicycle.denormalize(action).tolist(),
        "trajectories": xyz.tolist(),
    }

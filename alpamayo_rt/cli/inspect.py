# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt inspect`: what a checkpoint is made of and what running it takes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from alpamayo_rt.cli.common import emit, table

RELEASED = "released:"


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "inspect", help="parts, sizes, token ids, statistics, memory per precision", allow_abbrev=False
    )
    command.add_argument(
        "model",
        metavar="MODEL",
        help=f"a checkpoint folder, a hub id, or {RELEASED}FAMILY: its released sizes without any file",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from alpamayo_rt.checkpoint import open_checkpoint
    from alpamayo_rt.inspection import inspect_checkpoint

    if args.model.startswith(RELEASED):
        found = _released(args.model.removeprefix(RELEASED))
    else:
        found = inspect_checkpoint(open_checkpoint(args.model))
    emit(json.dumps(found, indent=1) if args.json else _text(found))
    return 0


def _released(model_type: str) -> dict[str, Any]:
    from alpamayo_rt.bench.released import find_released, released_config, usual_tokens
    from alpamayo_rt.inspection import inspect_sizes

    family, sizes = find_released(model_type)
    return inspect_sizes(released_config(family, sizes), usual_tokens(sizes))


_FITS = {"guided": "fits", "plain": "no guidance", None: "-"}


def _text(found: dict[str, Any]) -> str:
    columns = ("weights", "cache", "working", "total", "guided_total")
    parts = table(
        ("part", "tensors", "parameters", "sizes"),
        [
            (
                name,
                str(part["tensors"]),
                f"{part['parameters']:,}",
                ", ".join(f"{k} {v}" for k, v in found["sizes"].get(name, {}).items()),
            )
            for name, part in found["parts"].items()
        ],
    )
    tasks = table(
        ("task", "cameras", "tokens at most"),
        [
            (name, ", ".join(map(str, task["cameras"])), str(task["max_generate_length"]))
            for name, task in found["tasks"].items()
        ],
    )
    memory = table(
        ("precision", "weights GiB", *columns[1:-1], "guided", *found["cards_gib"]),
        [
            (name, *(f"{m[column]:.2f}" for column in columns), *(_FITS[card] for card in m["fits"].values()))
            for name, m in found["memory_gib"].items()
        ],
    )
    usual = found["default_input"]
    needs = [
        f"images of {found['images']['min_pixels']} to {found['images']['max_pixels']} pixels; memory for "
        f"{usual['images']} (resized to {usual['resized'][0]}×{usual['resized'][1]}, "
        f"{usual['prompt_tokens']} prompt tokens), six candidates:",
        memory,
        "guided: with the second cache of guidance; cards: what fits into "
        + ", ".join(f"{room:g} GiB of {card}" for card, room in found["cards_gib"].items()),
    ]
    if "hash" not in found:
        title = f"{found['title']} ({found['family']}), released sizes\n{found['parameters']:,} parameters"
        return "\n".join([title, "", parts, "", tasks, "", *needs])
    return "\n".join([*_identity(found), "", parts, "", *_checkpoint_tables(found, tasks), "", *needs])


def _identity(found: dict[str, Any]) -> list[str]:
    narrow = found["narrowed"]
    held = f"; {narrow['precision']} weights in {', '.join(narrow['parts'])}" if narrow else ""
    return [
        f"{found['title']} ({found['family']}) in {found['name']}, hash {found['hash']}",
        f"{found['parameters']:,} parameters in {found['shards']} shard(s), "
        f"stored as {', '.join(found['stored_types'])}{held}",
    ]


def _checkpoint_tables(found: dict[str, Any], tasks: str) -> list[str]:
    tokens = table(("token", "id"), [(name, str(value)) for name, value in found["token_ids"].items()])
    statistics = table(
        ("action", "mean", "std", "bounds"),
        [
            (name, repr(s["mean"]), repr(s["std"]), f"{s['bounds'][0]} … {s['bounds'][1]} {unit}")
            for name, unit in (("acceleration", "m/s²"), ("curvature", "1/m"))
            for s in [found["action_statistics"][name]]
        ],
    )
    stored = "in the checkpoint" if found["action_statistics"]["stored_in_checkpoint"] else "from config.json"
    return [tokens, "", tasks, "", f"action statistics {stored}:", statistics]

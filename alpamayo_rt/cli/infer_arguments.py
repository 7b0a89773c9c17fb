# SPDX-License-Identifier: Apache-2.0
"""The arguments of `infer`, in our spelling and in the camelCase one of an existing runner."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from alpamayo_rt.cli.common import add_engine_arguments
from alpamayo_rt.errors import InputError
from alpamayo_rt.tasks import TASK_NAMES

DEFAULT_T0_US = 5_100_000
IGNORED = {"dump_profile": "dumpProfile", "warmup": "warmup"}


def number(text: str) -> int | float:
    """A whole number exactly as it is, any other as a float (argparse names this function in its errors)."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Everything but the model arguments."""
    source = command.add_argument_group("what to answer")
    source.add_argument("--input-file", "--inputFile", type=Path, metavar="F", help="a request file (JSON)")
    source.add_argument(
        "--clip", metavar="ID", help="a clip of the dataset, with --dataset-root; or world-live:SEED:NUMBER"
    )
    source.add_argument(
        "--t0-us",
        type=int,
        default=None,
        metavar="T",
        help="time in the clip, µs (default: 5100000; live: the clip's own)",
    )
    source.add_argument("--dataset-root", type=Path, metavar="DIR", help="a local hub cache with the dataset")
    source.add_argument("--prepared", type=Path, metavar="F", help="preprocessed patches (.npz, .safetensors)")
    source.add_argument("--nav-text", metavar="TEXT", help="navigation, with --clip or --prepared")
    source.add_argument("--question", metavar="TEXT", help="a question, with --clip or --prepared")
    source.add_argument(
        "--task", metavar="TASK",
        help=f"with --clip or --prepared: {', '.join(TASK_NAMES)} (default: by the question)",
    )  # fmt: skip
    source.add_argument("--ego-history-xyz-npy", "--egoHistoryXYZNpy", type=Path, metavar="F")
    source.add_argument("--ego-history-rot-npy", "--egoHistoryRotNpy", type=Path, metavar="F")
    source.add_argument("--ego-future-xyz-npy", type=Path, metavar="F", help="for auto-labels")
    source.add_argument("--ego-future-rot-npy", type=Path, metavar="F")

    out = command.add_argument_group("what to write")
    out.add_argument(
        "--output-file", "--outputFile", type=Path, metavar="F", help="the result file (default: stdout)"
    )
    out.add_argument("--plot", type=Path, metavar="PNG", help="a picture; with several requests one each")
    out.add_argument(
        "--dump-kv-cache", "--dumpKVCache", nargs="?", const="", default=None, metavar="DIR",
        help="dump what the expert reads and makes, for replay",
    )  # fmt: skip
    out.add_argument("--kv-cache-output-dir", "--kvCacheOutputDir", type=Path, metavar="DIR")

    how = command.add_argument_group("how")
    how.add_argument("--num-candidates", "--numCandidates", type=number, metavar="K", help="default: 6")
    how.add_argument("--num-diffusion-steps", "--numDiffusionSteps", type=number, metavar="N", help="10")
    how.add_argument(
        "--multi-seq", "--multiSeq", action=argparse.BooleanOptionalAction, default=None,
        help="one reasoning a candidate instead of one for all",
    )  # fmt: skip
    how.add_argument("--temperature", type=number, metavar="X", help="default: 0.6; 0 is greedy")
    how.add_argument("--top-p", type=number, metavar="X", help="default: 0.98")
    how.add_argument("--top-k", type=number, metavar="N", help="default: off; 1 is greedy")
    how.add_argument("--max-generate-length", type=number, metavar="N", help="default: the task's")
    how.add_argument("--seed", type=number, metavar="N", help="default: 0")
    how.add_argument("--guidance-weight", type=number, metavar="W", help="default: off; needs a navigation")

    runner = add_engine_arguments(command)
    runner.add_argument("--dumpProfile", dest="dump_profile", nargs="?", const="", help="ignored")
    runner.add_argument("--warmup", nargs="?", const="", metavar="N", help="ignored")


def is_live(clip: str) -> bool:
    """Whether a clip's name is `world-live:SEED:NUMBER`."""
    return clip.startswith("world-live:")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse combinations that make no sense.

    Raises:
        InputError: names the flags.
    """
    if args.model is None and args.engine_dir is None:
        raise InputError("--model: missing, expected a checkpoint folder or a hub id")
    sources = [f for f in ("input_file", "clip", "prepared") if getattr(args, f) is not None]
    if not sources or (len(sources) > 1 and sources != ["input_file", "prepared"]):
        raise InputError("what to answer: expected one of --input-file, --clip, --prepared")
    for flag in ("nav_text", "question", "task"):
        if getattr(args, flag) is not None and "input_file" in sources:
            raise InputError(
                f"--{flag.replace('_', '-')}: goes with --clip or --prepared, not with --input-file"
            )
    if args.clip is not None:
        if is_live(args.clip) and args.dataset_root is not None:
            raise InputError("--dataset-root: a live clip of the demo world has none, expected to be left out")
        if args.dataset_root is None and not is_live(args.clip):
            raise InputError("--dataset-root: missing, expected the dataset's local cache")
        for name in ("history", "future"):
            if any(getattr(args, f"ego_{name}_{kind}_npy") is not None for kind in ("xyz", "rot")):
                raise InputError(
                    f"--ego-{name}-xyz-npy and --ego-{name}-rot-npy: go with --input-file or --prepared; "
                    f"a clip has its {name}"
                )
    elif args.dataset_root is not None or args.t0_us is not None:
        raise InputError("--dataset-root and --t0-us: go with --clip")


def setting_overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives; they go before those of a request."""
    from alpamayo_rt.settings import SETTING_NAMES

    return {name: getattr(args, name) for name in SETTING_NAMES if getattr(args, name) is not None}

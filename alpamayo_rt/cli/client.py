# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt client`: posts a clip to a server, prints the reasoning while it is written."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from alpamayo_rt.atomic import check_writable, write_atomically
from alpamayo_rt.cli.common import one_line, say
from alpamayo_rt.cli.infer_arguments import DEFAULT_T0_US, is_live, number
from alpamayo_rt.cli.serve import TOKEN_VARIABLE
from alpamayo_rt.errors import InputError
from alpamayo_rt.result import Result
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.serving.client import Client, ServerError


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "client",
        help="post a clip to a server",
        description="Posts a clip to a server, prints what it says as it says it, saves JSON and picture.",
        allow_abbrev=False,
    )
    command.add_argument("--url", default="http://127.0.0.1:8000", metavar="U", help="default: %(default)s")
    command.add_argument(
        "--clip", required=True, metavar="ID", help="of the dataset, or world-live:SEED:NUMBER"
    )
    command.add_argument("--t0-us", type=int, metavar="T", help="time in the clip, µs")
    command.add_argument("--dataset-root", type=Path, metavar="DIR", help="a local hub cache with the dataset")
    command.add_argument("--nav-text", metavar="TEXT", help="navigation")
    command.add_argument("--question", metavar="TEXT", help="a question to answer instead of driving")
    command.add_argument("--output-file", type=Path, metavar="F", help="the server's answer as JSON")
    command.add_argument("--plot", type=Path, metavar="PNG", help="a picture of it")
    command.add_argument("--image-format", default="PNG", choices=("PNG", "JPEG"), help="default: PNG, exact")
    command.add_argument("--num-candidates", type=number, default=6, metavar="K", help="default: 6")
    command.add_argument("--num-diffusion-steps", type=number, metavar="N")
    command.add_argument("--temperature", type=number, metavar="X")
    command.add_argument("--top-p", type=number, metavar="X")
    command.add_argument("--top-k", type=number, metavar="N")
    command.add_argument("--max-generate-length", type=number, metavar="N")
    command.add_argument("--seed", type=number, default=0, metavar="N", help="default: 0")
    command.add_argument("--guidance-weight", type=number, metavar="W")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command: 1 if the server refuses, 2 if it cannot be asked."""
    for path in (args.output_file, args.plot):
        if path is not None:
            check_writable(path)
    sample, future = _sample(args)
    client = Client(args.url, os.environ.get(TOKEN_VARIABLE))
    settings = {
        "image_format": args.image_format,
        "num_traj_samples": args.num_candidates,
        "num_diffusion_steps": args.num_diffusion_steps,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "max_tokens": args.max_generate_length,
        "seed": args.seed,
        "guidance_weight": args.guidance_weight,
    }
    try:
        reply = _listen(client, sample, settings)
    except ServerError as error:
        if error.status == 0:
            raise
        say(f"client: {error}")
        return 1
    for warning in reply["warnings"]:
        say(f"warning: {warning}")
    say(f"{', '.join(sorted(set(reply['stop_reasons'])))}, {reply['milliseconds']['total']:.0f} ms")
    if args.output_file is not None:
        write_atomically(args.output_file, (json.dumps(reply) + "\n").encode())
        say(f"wrote {args.output_file}")
    if args.plot is not None:
        from alpamayo_rt.plot import draw, save

        save(draw(sample, result_of(reply), future), args.plot)
        say(f"wrote {args.plot}")
    return 0


def _sample(args: argparse.Namespace) -> tuple[Sample, torch.Tensor | None]:
    if is_live(args.clip):
        from alpamayo_rt.demo.live import live_clip

        return live_clip(args.clip, args.t0_us).read(torch.device("cpu"), args.nav_text, args.question)
    if args.dataset_root is None:
        raise InputError("--dataset-root: missing, expected the dataset's local cache")
    from alpamayo_rt.sample.clips import ClipDataset

    t0_us = DEFAULT_T0_US if args.t0_us is None else args.t0_us
    clip = ClipDataset(args.dataset_root).read(args.clip, t0_us, with_future="if available")
    return clip.sample.replaced(navigation=args.nav_text, question=args.question), clip.future_xyz


def _listen(client: Client, sample: Sample, settings: dict[str, Any]) -> dict[str, Any]:
    """Print what is said while it is said; gives the whole answer."""
    reply: dict[str, Any] = {}
    for event in client.stream(sample, **settings):
        if event.name in ("reasoning", "answer") and event.data["sequence"] == 0:
            lead = "\n" if event.data.get("replace") else ""
            words = one_line("." + event.data["text"] + ".")[1:-1]  # blanks at its ends are kept
            sys.stdout.write(lead + words)
            sys.stdout.flush()
        elif event.name == "result":
            reply = event.data
    sys.stdout.write("\n")
    if not reply:
        raise ServerError(0, "url: the answer broke off before its end")
    return reply


def result_of(reply: dict[str, Any]) -> Result:
    """The answer of `/v1/infer` as the result that a local inference would give."""

    def tensor(name: str) -> torch.Tensor | None:
        return None if reply[name] is None else torch.tensor(reply[name], dtype=torch.float32)

    milliseconds = {k: v for k, v in reply["milliseconds"].items() if not k.startswith("server_")}
    return Result(
        reply["reasoning"] or [],
        [],
        reply["stop_reasons"],
        reply["usage"]["prompt_tokens"],
        reply["seed"],
        milliseconds,
        tensor("trajectories"),
        tensor("rotations"),
        tensor("actions"),
        reply["answer"],
    )

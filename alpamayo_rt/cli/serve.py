# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt serve`: the HTTP interface and the page."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from alpamayo_rt.cli.common import add_engine_arguments, add_model_arguments, internal_error, load_model, say
from alpamayo_rt.errors import InputError

TOKEN_VARIABLE = "ALPAMAYO_RT_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "serve",
        help="answer requests over HTTP, and show a page",
        description="Answers the requests of the published Alpamayo NIM interface; shows a page at /.",
        allow_abbrev=False,
    )
    add_model_arguments(command, required=False)
    add_engine_arguments(command)
    where = command.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", metavar="H", help="default: 127.0.0.1, this machine only")
    where.add_argument("--port", type=int, default=8000, metavar="P", help="default: 8000; 0 takes a free one")
    where.add_argument(
        "--token-file", type=Path, metavar="F",
        help=f"requests have to bear the token in it (or in {TOKEN_VARIABLE})",
    )  # fmt: skip
    where.add_argument("--log-requests", action="store_true", help="one line on stderr for each request")

    how = command.add_argument_group("how much")
    how.add_argument("--threads", type=int, metavar="N", help="of the engine on the CPU (default: torch's)")
    how.add_argument("--queue", type=int, default=16, metavar="N", help="requests that may wait (default: 16)")
    how.add_argument(
        "--deadline", type=float, default=60.0, metavar="S", help="seconds until an answer (default: 60)"
    )
    how.add_argument("--max-body-mib", type=int, default=128, metavar="N", help="of a request (default: 128)")
    how.add_argument("--max-images", type=int, default=64, metavar="N", help="of a request (default: 64)")
    how.add_argument("--max-candidates", type=int, default=64, metavar="K", help="default: 64")
    how.add_argument("--no-warm-up", action="store_true", help="be ready as soon as the model is loaded")
    how.add_argument("--served-model-name", metavar="NAME", help="default: the checkpoint's name")

    page = command.add_argument_group("clips on the page")
    page.add_argument("--world-seed", type=int, default=0, metavar="S", help="of the demo world (default: 0)")
    page.add_argument("--world-clips", type=int, default=12, metavar="N", help="default: 12; 0 for none")
    page.add_argument("--dataset-root", type=Path, metavar="DIR", help="a local hub cache with the dataset")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.model is None and args.engine_dir is None:
        raise InputError("--model: missing, expected a checkpoint folder, a hub id, or nano")
    for flag, least in (
        ("threads", 1), ("queue", 0), ("max_body_mib", 1), ("max_images", 1), ("max_candidates", 1),
        ("world_seed", 0), ("world_clips", 0),
    ):  # fmt: skip
        value = getattr(args, flag)
        if value is not None and value < least:
            raise InputError(f"--{flag.replace('_', '-')}: {value}, expected {least} or more")
    if not 0 < args.deadline < 86_400:
        raise InputError(f"--deadline: {args.deadline}, expected seconds above 0")
    token = _token(args.token_file)
    try:
        from alpamayo_rt.serving.clips import ClipShelf
        from alpamayo_rt.serving.limits import MIB, Limits
        from alpamayo_rt.serving.server import Server, bind, warm_up
    except ModuleNotFoundError as error:
        raise InputError(f"serve: needs {error.name}; install alpamayo-rt[serve]") from None
    import torch
    from PIL import Image

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused in a sentence of our own
    limits = Limits(
        body_bytes=args.max_body_mib * MIB,
        all_bodies_bytes=4 * args.max_body_mib * MIB,
        images=args.max_images,
        candidates=args.max_candidates,
        waiting=args.queue,
        deadline_seconds=args.deadline,
    )
    bound = bind(args.host, args.port)
    if args.host not in _LOOPBACK and token is None:
        say(f"serve: {args.host} is open to other machines and there is no token (--token-file)")
    shelf = ClipShelf(args.world_seed, args.world_clips, args.dataset_root)
    server = Server(
        lambda: load_model(args),
        limits,
        shelf,
        token,
        args.served_model_name,
        None if args.no_warm_up else warm_up,
        say,
        lambda error: say(f"serve: {internal_error(error)}"),
        args.log_requests,
    )
    if not server.run(bound):
        sys.stderr.flush()
        os._exit(0 if server.worker.model is None else 1)
    return 0


def _token(path: Path | None) -> str | None:
    if path is None:
        token, where = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
        if token is None:
            return None
    else:
        where = f"--token-file: {path}"
        try:
            token = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    token = token.strip()
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise InputError(f"{where}: expected one word of ASCII characters")
    return token

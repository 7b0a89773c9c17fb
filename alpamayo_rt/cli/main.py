# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt COMMAND`: exit 0 all done, 1 something failed and the output says what, 2 could not start."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from alpamayo_rt.cli import signals
from alpamayo_rt.cli.common import internal_error, say
from alpamayo_rt.errors import AlpamayoError

CANNOT_START = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        self.exit(CANNOT_START, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from alpamayo_rt import __version__
    from alpamayo_rt.cli import (
        bench,
        build_engine,
        calibrate,
        client,
        compare,
        data,
        eval,
        export,
        infer,
        inspect,
        quantize,
        replay,
        report,
        serve,
        verify,
        world,
    )

    top = _Parser(
        prog="alpamayo-rt",
        description="Run NVIDIA's open driving model Alpamayo.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"alpamayo-rt {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    modules = (
        infer, inspect, replay, verify, serve, client, data, eval, compare, report, bench, export, build_engine,
        calibrate, quantize, world,
    )  # fmt: skip
    for module in modules:
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        args = parser().parse_args(argv)
        return args.run(args)
    except AlpamayoError as error:
        say(f"alpamayo-rt: {error}")
        return CANNOT_START
    except BrokenPipeError:
        return 1  # nobody is left to say it to
    except Exception as error:
        say(f"alpamayo-rt: {internal_error(error)}")
        return CANNOT_START
    except KeyboardInterrupt:
        say("alpamayo-rt: interrupted, nothing half-written is left")
        return INTERRUPTED


def run() -> NoReturn:
    """The console script."""
    signals.install()
    sys.exit(main())

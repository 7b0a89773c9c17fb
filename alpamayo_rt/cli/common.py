# SPDX-License-Identifier: Apache-2.0
"""What several commands share: model arguments, progress, tables."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from alpamayo_rt.errors import InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.loading import ENGINES, PRECISIONS
from alpamayo_rt.provenance import run_header as run_header
from alpamayo_rt.provenance import versions as versions
from alpamayo_rt.quantization.parts import NARROW, check_parts


def add_model_arguments(command: argparse.ArgumentParser, required: bool = True) -> None:
    """`--model`, `--engine`, `--precision`, `--parts`, `--device`."""
    command.add_argument(
        "--model", required=required, metavar="M", help="a checkpoint folder, a hub id, or nano"
    )
    command.add_argument("--engine", default="auto", metavar="E", help=f"{', '.join(ENGINES)} (default: auto)")
    precisions = ", ".join(("auto", *PRECISIONS, *NARROW))
    command.add_argument("--precision", default="auto", metavar="P", help=f"{precisions} (default: auto)")
    add_parts_argument(command)
    command.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")


def add_parts_argument(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--parts` of a command that narrows while it loads."""
    command.add_argument(
        "--parts", metavar="P,…", help="what fp8 and int4 narrow: language, vision, expert (default: language)"
    )


def chosen_parts(args: argparse.Namespace) -> tuple[str, ...] | None:
    """What `--parts` names, or None where it is not given.

    Raises:
        InputError: a part is unknown.
    """
    return None if args.parts is None else check_parts(args.parts.split(","))


ENGINE_OPTIONS = ("engine_dir", "multimodal_engine_dir", "expert_engine", "contract", "execution_provider")


def add_engine_arguments(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Where exported parts are, in our spelling and in the camelCase one of an existing runner."""
    group = command.add_argument_group("engines built elsewhere (docs/export.md)")
    group.add_argument(
        "--engine-dir", "--engineDir", metavar="DIR",
        help="an exported language model; vision and expert too where they are in it",
    )  # fmt: skip
    group.add_argument(
        "--multimodal-engine-dir", "--multimodalEngineDir", metavar="DIR", help="an exported vision tower"
    )
    group.add_argument("--expert-engine", "--expertEngine", metavar="DIR", help="an exported expert")
    group.add_argument(
        "--contract",
        metavar="C",
        help="of the expert: fused, shared or shared-loop (default: the file's, or shared)",
    )
    group.add_argument(
        "--execution-provider", metavar="P", help="ONNX Runtime's, by its name (default: the device's)"
    )
    return group


def load_model(args: argparse.Namespace, only: tuple[str, ...] = ("",)) -> Model:
    """Load what the arguments name, with progress on stderr."""
    from alpamayo_rt.loading import load

    files = {name: getattr(args, name) for name in ENGINE_OPTIONS if hasattr(args, name)}
    return load(
        args.model, args.engine, args.precision, args.device, progress=say, only=only, parts=chosen_parts(args),
        **files,
    )  # fmt: skip


def say(line: str) -> None:
    """Progress: one line on stderr, whatever the text holds."""
    if sys.stderr is not None:  # print would take stdout instead
        print(one_line(line), file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """Write a command's output to stdout, all of it now.

    Raises:
        BrokenPipeError: whoever read it has gone.
        InputError: stdout cannot be written.
    """
    if sys.stdout is None:
        raise InputError("standard output: closed, expected it open")
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # The interpreter would try to write the rest once more on its way out, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise InputError(f"standard output: cannot be written ({error.strerror or error})") from None


def one_line(text: str) -> str:
    """The text without line ends and other characters that a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def internal_error(error: Exception) -> str:
    """One sentence for an error that nobody foresaw; with ALPAMAYO_RT_DEBUG set, the whole story on stderr."""
    if os.environ.get("ALPAMAYO_RT_DEBUG"):
        traceback.print_exception(error)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"internal error, {type(error).__name__}: {first} (set ALPAMAYO_RT_DEBUG=1 for the traceback)"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under a header; numbers are the caller's to format."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in (lines[0], "  ".join("-" * w for w in widths), *lines[1:]))


def result_file(header: dict[str, Any], responses: list[dict[str, Any]]) -> str:
    """The text of a result file: one line a header field and one a response, however long."""
    fields = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in header.items()]
    lines = ",\n".join(f"  {json.dumps(response, allow_nan=False)}" for response in responses)
    return "{\n" + ",\n".join([*fields, f' "responses": [\n{lines}\n ]']) + "\n}"

# SPDX-License-Identifier: Apache-2.0
"""A program of its own: runs a command again and again in forked children and ends them at given moments.

Importing torch takes seconds; a fork of a process that has done so starts at once. Called with one JSON
argument, prints one JSON object a run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

import alpamayo_rt.cli.infer
import alpamayo_rt.dump
from alpamayo_rt import atomic, loading
from alpamayo_rt.cli.main import run as command

FOREVER = 30.0
_loaded: list[Any] = []


def _install(moment: str, reached: Callable[[], None]) -> None:
    """Make the command stop at a moment: `reached` is called, then nothing happens for long."""
    what, _, when = moment.partition(" ")

    def halt() -> None:
        reached()
        time.sleep(FOREVER)

    def half(path: Path, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            halt()

    def slow_write(path: Path, data: bytes) -> None:
        with atomic.replacing(path) as beside:
            half(beside, data)

    save_file = alpamayo_rt.dump.save_file

    def slow_save(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        half(path, Path(path).read_bytes())

    def at(name: str, before: bool) -> None:
        ending = ".safetensors" if what == "dump" else ".json"
        original = getattr(os, name)

        def patched(*args: Any) -> Any:
            place = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[0])
            hit = ending in os.path.basename(place)
            if hit and before:
                halt()
            result = original(*args)
            if hit and not before:
                halt()
            return result

        setattr(os, name, patched)

    if when == "half written":
        if what == "dump":
            alpamayo_rt.dump.save_file = slow_save
        else:
            alpamayo_rt.cli.infer.write_atomically = slow_write
    elif when == "before its rename":
        at("replace", before=True)
    elif when == "after its rename":
        at("replace", before=False)
    else:
        raise ValueError(moment)


def _child(argv: list[str], folder: Path, moment: str | None, pipe: int) -> None:
    errors = os.open(folder / "stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    # A shell's background jobs ignore it, and their children would.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if moment is not None:
        # Loading is not what is looked at here, and its time is.
        loading.load = lambda *args, **options: _loaded[0]
        _install(moment, lambda: os.write(pipe, b"x"))
    sys.argv = ["alpamayo-rt", *argv]
    status = 1
    try:
        command()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def _state(path: Path) -> str:
    """absent, old, complete or broken."""
    if not path.exists():
        return "absent"
    data = path.read_bytes()
    if data == b"old":
        return "old"
    try:
        if path.suffix == ".json":
            return "complete" if len(json.loads(data)["responses"]) == 2 else "broken"
        with safe_open(path, framework="pt") as file:
            return "complete" if "noise" in file.keys() else "broken"  # noqa: SIM118
    except (ValueError, SafetensorError):
        return "broken"


def _once(
    argv: list[str], folder: Path, number: int | None, delay: float, moment: str | None
) -> dict[str, Any]:
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(argv, folder, moment, writing)
    os.close(writing)
    reached = True
    if moment is not None:
        reached = os.read(reading, 1) == b"x"
    elif number is not None:
        time.sleep(delay)
    if number is not None:
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    return {
        "seconds": time.monotonic() - started,
        "reached": reached,
        "status": os.waitstatus_to_exitcode(status),
        "stderr": (folder / "stderr.txt").read_text(),
        "output": _state(folder / "out.json"),
        "dumps": [_state(folder / "kv" / f"{name}.safetensors") for name in ("a", "b")],
        "temporary": sorted(path.name for path in folder.rglob("*.tmp")),
    }


def _prepare(folder: Path, old: bool) -> None:
    """Every run starts with the same files; what others left under temporary names stays."""
    (folder / "kv").mkdir(exist_ok=True)
    for path in (folder / "out.json", folder / "kv" / "a.safetensors", folder / "kv" / "b.safetensors"):
        path.unlink(missing_ok=True)
        if old:
            path.write_bytes(b"old")


def main() -> None:
    """Do what the argument says: argv, folder, signal, and moments or a number of delays."""
    asked = json.loads(sys.argv[1])
    folder, number = Path(asked["folder"]), signal.Signals[asked["signal"]]
    torch.set_num_threads(1)
    _loaded.append(loading.load(asked["argv"][asked["argv"].index("--model") + 1]))

    def say(**found: Any) -> None:
        print(json.dumps(found), flush=True)

    _prepare(folder, old=False)
    whole = _once(asked["argv"], folder, None, 0.0, None)
    say(moment="whole", old=False, **whole)
    delays = [whole["seconds"] * (n + 0.5) / asked["delays"] for n in range(asked["delays"])]
    for n, moment in enumerate([*asked["moments"], *delays]):
        old = n % 2 == 0
        _prepare(folder, old)
        halted = isinstance(moment, str)
        found = _once(asked["argv"], folder, number, 0.0 if halted else moment, moment if halted else None)
        say(moment=moment, old=old, **found)
    _prepare(folder, old=False)
    say(moment="after", old=False, **_once(asked["argv"], folder, None, 0.0, None))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The record of a run: how it is made, read and written (docs/bench.schema.json)."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.bench.timing import STAGES
from alpamayo_rt.errors import InputError

Record = dict[str, Any]
KEY = ("workload", "family", "engine", "precision")
"""The fields by which results of two records belong together."""


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def clocks(device: torch.device) -> dict[str, str] | None:
    """What the driver says of clocks and power, asked and nothing else; None on the CPU or without it."""
    if device.type != "cuda":
        return None
    fields = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.draw,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "-i", str(device.index or 0)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(fields.split(","), values, strict=False))


def new_record(device: torch.device, command: str, versions: Mapping[str, str]) -> Record:
    """A record without results.

    Args:
        device: what is timed.
        command: the command line that makes it again.
        versions: of what the figures depend on.
    """
    more = {"cuda": torch.version.cuda} if device.type == "cuda" and torch.version.cuda else {}
    return {
        "device": device_name(device),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": command,
        "versions": {**versions, **more},
        "clocks": None,
        "results": [],
    }


def pause_of(record: Record) -> float:
    """Seconds of rest before each run of a record; 0 where it does not say."""
    return float(next(iter(_pauses(record)), 0))


def _pauses(record: Record) -> list[Any]:
    """What its results say of rests."""
    settings = [result.get("settings") for result in record["results"]]
    return [value["pause_s"] for value in settings if isinstance(value, dict) and "pause_s" in value]


def write_record(path: Path, record: Record) -> None:
    """Write it, whole or not at all."""
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        InputError: it is missing or something else; names the field.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing, expected a record of alpamayo-rt bench") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    for field, kind in (("device", str), ("date", str), ("command", str), ("versions", dict)):
        if not isinstance(value, dict) or not isinstance(value.get(field), kind):
            raise InputError(f"{path}: {field} missing, expected a record of alpamayo-rt bench")
    results = value.get("results")
    if not isinstance(results, list) or not results:
        raise InputError(f"{path}: results missing, expected a record of alpamayo-rt bench")
    for n, result in enumerate(results):
        _check_result(result, f"{path}: results[{n}]")
    pauses = _pauses(value)
    if not all(map(_is_number, pauses)) or len(set(pauses)) > 1:
        raise InputError(
            f"{path}: settings.pause_s: {pauses!r:.60}, expected one number of seconds for all results"
        )
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_result(result: object, where: str) -> None:
    if not isinstance(result, dict):
        raise InputError(f"{where}: {result!r:.60}, expected an object")
    for field in KEY:
        if not isinstance(result.get(field), str):
            raise InputError(f"{where}.{field}: missing, expected a text")
    stages = result.get("stages_ms")
    if not isinstance(stages, dict) or not set(STAGES) <= set(stages):
        raise InputError(f"{where}.stages_ms: {stages!r:.60}, expected {', '.join(STAGES)}")
    for name in ("peak_gib", "n"):
        if not _is_number(result.get(name)):
            raise InputError(f"{where}.{name}: {result.get(name)!r}, expected a number")
    for name, value in times_of(result).items():
        if not _is_number(value) or not value > 0:
            raise InputError(f"{where}: {name} {value!r}, expected milliseconds above 0")


def times_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The medians of a result by name: stages, total, end to end where it has that."""
    times = dict(result["stages_ms"])
    times["total"] = result.get("total_ms")
    if "end_to_end_ms" in result:
        times["end_to_end"] = result["end_to_end_ms"]
    return times

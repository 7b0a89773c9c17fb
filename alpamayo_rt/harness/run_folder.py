# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what was asked, one line a clip as it comes, a summary. Killed at any moment, it goes
on.

A line is written with one call and is on the disk before the clip counts as done. What a killed process left
of its last line is cut off, so that clip is run again; every other clip has exactly one record. A lock keeps
a second process out.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any, Self

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.errors import InputError
from alpamayo_rt.harness.clip_list import ClipRef

Record = dict[str, Any]
RUN, RESULTS, SUMMARY, PICTURES, MISSING = (
    "run.json",
    "results.jsonl",
    "summary.json",
    "pictures",
    "missing.csv",
)


def key_of(record: Record) -> tuple[str, int | None, str | None]:
    """What makes a record that of a clip."""
    return record["clip_id"], record["t0_us"], record.get("nav_text")


def picture_name(record: Record) -> str:
    """Of the file with what the cameras saw."""
    return re.sub(r"[^\w.-]", "_", f"{record['clip_id']}_{record['t0_us']}") + ".jpg"


class RunFolder:
    """A run that is being written; a context manager, so that the lock is given back."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file = -1
        self.records: list[Record] = []

    def asked(self) -> dict[str, Any] | None:
        """What the run that is here was asked to do, None where there is none.

        Raises:
            InputError: the folder holds something else.
        """
        if not (self.path / RUN).exists():
            if (self.path / RESULTS).exists() or (self.path.exists() and not self.path.is_dir()):
                raise InputError(f"--out: {self.path} is not the folder of a run, expected a new one or a run")
            return None
        return dict(_read_json(self.path / RUN))

    def begin(self, header: dict[str, Any]) -> None:
        """Start the run, or go on with the one that is here.

        Args:
            header: how the answers are made, and what was asked.

        Raises:
            InputError: the run that is here is another one, or another process is at it.
        """
        there = self.asked()
        if there is not None:
            check_same(there, header, self.path)
        try:
            (self.path / PICTURES).mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path / RESULTS, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise InputError(f"--out: another process is writing {self.path}, expected one at a time") from None
        except OSError as error:
            self.close()
            raise InputError(f"--out: {self.path} cannot be written ({error.strerror or error})") from None
        self.records = self._recover()
        if there is None:
            write_atomically(self.path / RUN, (json.dumps(header, indent=1) + "\n").encode())

    def append(self, record: Record, picture: bytes | None = None) -> None:
        """Add a record; when this returns it is on the disk.

        Raises:
            InputError: the disk refuses it; the file is as it was.
        """
        if picture is not None:
            write_atomically(self.path / PICTURES / picture_name(record), picture)
        line = (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, end)
            raise InputError(f"{self.path / RESULTS}: cannot be written ({error.strerror or error})") from None
        self.records.append(record)

    def forget_failed(self) -> int:
        """Drop the records of failed clips, so that they are run again; how many there were."""
        kept = [record for record in self.records if record["status"] == "ok"]
        dropped = len(self.records) - len(kept)
        if dropped:
            text = "".join(json.dumps(r, allow_nan=False, separators=(",", ":")) + "\n" for r in kept)
            write_atomically(self.path / RESULTS, text.encode())
            fresh = os.open(self.path / RESULTS, os.O_RDWR)
            fcntl.flock(fresh, fcntl.LOCK_EX)
            os.close(self._file)
            self._file, self.records = fresh, kept
        return dropped

    def reread(self) -> None:
        """Take the records from the file: whoever interrupts may come between the disk and the list of them."""
        self.records = _lines((self.path / RESULTS).read_bytes(), self.path / RESULTS)[0]

    def left(self, refs: list[ClipRef]) -> list[ClipRef]:
        """Those that have no record yet."""
        done = {key_of(record) for record in self.records}
        return [ref for ref in refs if ref.key not in done]

    def write(self, name: str, value: Any) -> None:
        """Write one of the other files."""
        write_atomically(self.path / name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def close(self) -> None:
        """Give the lock back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recover(self) -> list[Record]:
        records, good = _lines((self.path / RESULTS).read_bytes(), self.path / RESULTS)
        os.ftruncate(self._file, good)
        os.fsync(self._file)
        return records


def check_same(there: dict[str, Any], header: dict[str, Any], path: Path) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        InputError: names the first thing that differs.
    """
    for name, value in header.items():
        if name == "asked" and isinstance(there.get(name), dict):
            check_same(there[name], value, path)
        elif name != "created" and there.get(name) != value:
            was, now = json.dumps(there.get(name)), json.dumps(value)
            raise InputError(f"--out: {path} holds a run with {name} {was}, not {now}; choose another folder")


def read_run(path: str | Path) -> tuple[dict[str, Any], list[Record]]:
    """A run's header and its records, whether it is finished or not.

    Raises:
        InputError: no run there, or a damaged one.
    """
    folder = Path(path)
    if not (folder / RUN).is_file() or not (folder / RESULTS).is_file():
        raise InputError(f"{path}: no run there, expected a folder with {RUN} and {RESULTS}")
    return dict(_read_json(folder / RUN)), _lines((folder / RESULTS).read_bytes(), folder / RESULTS)[0]


def _lines(data: bytes, path: Path) -> tuple[list[Record], int]:
    """The records, and where the last whole line ends."""
    end = data.rfind(b"\n") + 1
    records, seen = [], set()
    for n, line in enumerate(data[:end].splitlines(), 1):
        try:
            record = json.loads(line)
            key = key_of(record)
            if record["status"] not in ("ok", "error"):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {n}: is no record of a clip, remove the line to go on") from None
        if key in seen:
            raise InputError(f"{path}, line {n}: a second record of {key[0]}, remove one to go on")
        seen.add(key)
        records.append(record)
    return records, end


def _read_json(path: Path) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds no object, expected what eval has written")
    return value

# SPDX-License-Identifier: Apache-2.0
"""Lists of clips in the forms that are public: parquet, CSV, JSON or text with a `clip_id`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.errors import InputError

SUFFIXES = (".parquet", ".csv", ".json", ".txt")
_MISSING_PANDAS = "needs the package pandas: pip install 'alpamayo-rt[data]'"


@dataclass(frozen=True)
class ClipRef:
    """One moment of one clip: `t0_us` in the clip's microseconds, None where its source knows it."""

    clip_id: str
    t0_us: int | None = None
    nav_text: str | None = None

    @property
    def key(self) -> tuple[str, int | None, str | None]:
        """What makes two entries the same."""
        return self.clip_id, self.t0_us, self.nav_text


def read_list(path: str | Path) -> list[ClipRef]:
    """Read a list; entries that are there twice count once.

    `t0_us` or `t0_relative` (both µs into the clip) or `t0` with `clip_start_timestamp` say when, `nav_text`
    what the navigation says; other columns are not looked at.

    Raises:
        InputError: no such file, another form, no `clip_id`, a time that is none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"clips: no file {path}, expected a list of clips ({', '.join(SUFFIXES)})")
    readers = {".parquet": _parquet, ".csv": _csv, ".json": _json, ".txt": _text}
    if path.suffix.lower() not in readers:
        raise InputError(f"clips: {path} is no {', '.join(SUFFIXES)}, expected one of these forms")
    try:
        rows = readers[path.suffix.lower()](path)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise InputError(f"clips: {path} cannot be read as {path.suffix[1:]} ({error})") from None
    found = [_entry(row, f"{path}, entry {n}") for n, row in enumerate(rows, 1)]
    if not found:
        raise InputError(f"clips: {path} holds none, expected at least one")
    return list(dict.fromkeys(found))


def write_list(path: str | Path, refs: Iterable[ClipRef]) -> None:
    """Write a list in the form that the file's name asks for, whole or not at all.

    Raises:
        InputError: another form, or the file cannot be written.
    """
    path, refs = Path(path), list(refs)
    rows = [{"clip_id": r.clip_id, "t0_us": r.t0_us, "nav_text": r.nav_text} for r in refs]
    used = [name for name in ("clip_id", "t0_us", "nav_text") if any(row[name] is not None for row in rows)]
    rows = [{name: row[name] for name in used} for row in rows]
    suffix = path.suffix.lower()
    if suffix == ".txt":
        data = "".join(f"{r.clip_id}\n" for r in refs).encode()
    elif suffix == ".json":
        data = ("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n").encode()
    elif suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, used, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
    elif suffix == ".parquet":
        buffer = io.BytesIO()
        _pandas(path).DataFrame(rows).to_parquet(buffer, index=False)
        data = buffer.getvalue()
    else:
        raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    write_atomically(path, data)


def _pandas(path: Path) -> Any:
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(f"clips: {path} {_MISSING_PANDAS}") from None
    return pd


def _parquet(path: Path) -> list[Any]:
    pd = _pandas(path)
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow has no end of types
        first = (str(error).strip().splitlines() or [""])[0][:120]
        raise InputError(f"clips: {path} cannot be read as parquet ({first})") from None
    if "clip_id" not in table.columns:
        if table.index.name != "clip_id":
            raise InputError(
                f"clips: {path} has the columns {list(table.columns)}, expected clip_id among them"
            )
        table = table.reset_index()
    return list(table.to_dict("records"))


def _csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        rows = list(reader)
    if "clip_id" not in (reader.fieldnames or []):
        raise InputError(f"clips: {path} has the columns {reader.fieldnames}, expected clip_id among them")
    return rows


def _json(path: Path) -> list[Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and isinstance(content.get("clips"), list):
        content = content["clips"]
    if isinstance(content, dict):  # by clip id
        content = [
            {**(value if isinstance(value, dict) else {}), "clip_id": name} for name, value in content.items()
        ]
    if not isinstance(content, list):
        raise InputError(f"clips: {path} holds no list, expected clip ids or objects with clip_id")
    return content


def _text(path: Path) -> list[Any]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return [line for line in lines if line]


def _entry(row: Any, where: str) -> ClipRef:
    if isinstance(row, str):
        row = {"clip_id": row}
    if not isinstance(row, Mapping) or not isinstance(row.get("clip_id"), str) or not row["clip_id"].strip():
        raise InputError(f"clips: {where} has no clip_id, expected a text")
    t0 = next((n for name in ("t0_us", "t0_relative") if (n := _number(row, name, where)) is not None), None)
    if t0 is None:
        absolute, start = _number(row, "t0", where), _number(row, "clip_start_timestamp", where)
        t0 = None if absolute is None or start is None else absolute - start
    text = row.get("nav_text")
    nav_text = text.strip() if isinstance(text, str) and text.strip() else None
    return ClipRef(row["clip_id"].strip(), t0, nav_text)


def _number(row: Mapping[str, Any], name: str, where: str) -> int | None:
    value = row.get(name)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        number = float(value)
        if isinstance(value, bool) or not number.is_integer():
            raise ValueError
        return int(value) if isinstance(value, int) else int(number)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"clips: {where}: {name} {value!r}, expected whole microseconds") from None

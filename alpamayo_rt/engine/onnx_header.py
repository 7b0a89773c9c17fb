# SPDX-License-Identifier: Apache-2.0
"""An ONNX file's opset and metadata, read from its outermost records: no package, and no weights touched.

A protobuf message is a row of records; each begins with a number that holds its field and how long it is
(https://protobuf.dev/programming-guides/encoding). ONNX's ModelProto has opset_import as field 8 and
metadata_props as field 14.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from alpamayo_rt.errors import EngineError

_OPSET_IMPORT, _METADATA_PROPS = 8, 14
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


class OnnxHeader(NamedTuple):
    """`opset` of the standard operators; `metadata` as the exporter wrote it."""

    opset: int
    metadata: Mapping[str, str]


def read_header(path: Path) -> OnnxHeader:
    """Read a file's header.

    Raises:
        EngineError: it is missing, truncated or not an ONNX file.
    """
    opset = 0
    metadata: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            for number, content in _records(file, path.stat().st_size, {_OPSET_IMPORT, _METADATA_PROPS}):
                fields = _fields(content)
                if number == _METADATA_PROPS:
                    metadata[_text(fields.get(1))] = _text(fields.get(2))
                elif _text(fields.get(1)) in ("", "ai.onnx"):
                    opset = int(fields.get(2, 0))
    except FileNotFoundError:
        raise EngineError(f"{path}: missing, expected a file that alpamayo-rt export wrote") from None
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(f"{path}: truncated or not an ONNX file ({error})") from None
    if not opset:
        raise EngineError(f"{path}: truncated or not an ONNX file (it names no opset)")
    return OnnxHeader(opset, metadata)


def _records(file: BinaryIO, size: int, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Field and content of the wanted records; the others, which may be gigabytes, are passed over."""
    while file.tell() < size:
        key = _varint(file)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _varint(file)
            continue
        if kind not in (_BYTES, _EIGHT_BYTES, _FOUR_BYTES):
            raise ValueError(f"a record of kind {kind}")
        length = _varint(file) if kind == _BYTES else 8 if kind == _EIGHT_BYTES else 4
        if file.tell() + length > size:
            raise ValueError(f"{size} bytes, a record of it goes on to byte {file.tell() + length}")
        if number in wanted and kind == _BYTES:
            yield number, file.read(length)
        else:
            file.seek(length, 1)


def _fields(content: bytes) -> dict[int, int | bytes]:
    """The fields of a small message: numbers and strings."""
    file = io.BytesIO(content)
    found: dict[int, int | bytes] = {}
    while file.tell() < len(content):
        key = _varint(file)
        number, kind = key >> 3, key & 7
        if kind not in (_VARINT, _BYTES):
            raise ValueError(f"a record of kind {kind}")
        found[number] = _varint(file) if kind == _VARINT else file.read(_varint(file))
    return found


def _varint(file: BinaryIO) -> int:
    """Seven bits a byte, lowest first; the top bit says that more follow."""
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _text(value: int | bytes | None) -> str:
    if isinstance(value, int):
        raise ValueError("a number where a text belongs")
    return (value or b"").decode("utf-8")

# SPDX-License-Identifier: Apache-2.0
"""What an exported ONNX file says about itself, without its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alpamayo_rt.errors import EngineError

OPSETS = range(18, 24)
"""Opsets of the exporter's files, and those near it that the parsers read alike."""

_BLOCKS, _BLOCK = 16, 65536


@dataclass(frozen=True)
class OnnxFile:
    """An exported part.

    Attributes:
        path: the file.
        opset: of the standard operators.
        metadata: what the exporter wrote: part, contract, precision, model_hash, model_name, family.
        inputs: name → shape, numbers and names of dimensions.
        fingerprint: of the file and its external data.
    """

    path: Path
    opset: int
    metadata: Mapping[str, str]
    inputs: Mapping[str, tuple[int | str, ...]]
    fingerprint: str


def read_onnx(path: Path) -> OnnxFile:
    """Read a file's description.

    Raises:
        EngineError: it is missing, not an ONNX file, of another opset, or its external data is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise EngineError(
            f"onnx: not installed here ({error}), expected it from pip install 'alpamayo-rt[tensorrt]'"
        ) from None
    if not path.is_file():
        raise EngineError(f"{path}: missing, expected a file that `alpamayo-rt export` wrote")
    try:
        model = onnx.load(str(path), load_external_data=False)
        inputs = {i.name: tuple(_dimension(d) for d in i.type.tensor_type.shape.dim) for i in model.graph.input}
        opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    except Exception as error:  # protobuf raises a class of its own for each kind of damage
        raise EngineError(f"{path}: not a readable ONNX file ({_first_line(error)})") from None
    if opset not in OPSETS:
        raise EngineError(
            f"{path}: ONNX opset {opset}, expected {OPSETS.start} to {OPSETS.stop - 1}; export the part again"
        )
    external = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [path, *(path.parent / name for name in sorted(external))]
    for file in files:
        if not file.is_file():
            raise EngineError(f"{file}: missing, {path.name} keeps its weights there")
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    return OnnxFile(path, opset, metadata, inputs, fingerprint(*files))


def fingerprint(*files: Path) -> str:
    """A hash of the files' sizes and of 16 blocks of each: under a second whatever their size."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{size}:".encode())
        with file.open("rb") as stream:
            for block in range(_BLOCKS):
                stream.seek(max(size - _BLOCK, 0) * block // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()[:16]


def _dimension(dimension: object) -> int | str:
    kind = dimension.WhichOneof("value")  # type: ignore[attr-defined]
    if kind == "dim_value":
        return int(dimension.dim_value)  # type: ignore[attr-defined]
    return str(dimension.dim_param) if kind == "dim_param" else "?"  # type: ignore[attr-defined]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

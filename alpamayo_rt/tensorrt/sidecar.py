# SPDX-License-Identifier: Apache-2.0
"""The JSON file beside an engine: what it was built from, for what, by what, and how it is connected."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.errors import EngineError

FORMAT = 1
_BLOCKS, _BLOCK = 16, 65536


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what an engine will be; two equal recipes give the same engine.

    Attributes:
        part: vision, language or expert.
        target: the GPU, such as sm120.
        backend: tensorrt or tensorrt-rtx.
        tensorrt: its version.
        model: name, family and hash of the checkpoint.
        precision: of the weights.
        contract: of an expert; empty for the other parts.
        steps: of an expert that runs them all inside; empty for others.
        opset: of the ONNX file.
        onnx: fingerprint of the ONNX file and its external data.
        ranges: one object a profile, name of a dimension → [smallest, usual, largest size].
        workspace_mib: limit of the scratch memory; None for TensorRT's own.
    """

    part: str
    target: str
    backend: str
    tensorrt: str
    model: dict[str, str]
    precision: str
    contract: str
    steps: str
    opset: int
    onnx: str
    ranges: list[dict[str, list[int]]]
    workspace_mib: int | None


@dataclass(frozen=True)
class Sidecar:
    """A recipe and the engine that came of it.

    Attributes:
        recipe: see `Recipe`.
        inputs: of the built network as TensorRT names them: name, dtype, shape (−1 where a profile decides).
        outputs: likewise.
        profiles: one object a profile, input name → [smallest, usual, largest shape].
        bytes: of the engine file.
        fingerprint: of the engine file.
        build: how it went: seconds, peak_mib, date, and the version of this package.
    """

    recipe: Recipe
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    profiles: list[dict[str, list[list[int]]]]
    bytes: int
    fingerprint: str
    build: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        rest = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "recipe"}
        return {"format": FORMAT, **asdict(self.recipe), **rest}


def sidecar_path(engine: Path) -> Path:
    """`sm120.engine` → `sm120.engine.json`."""
    return engine.with_name(engine.name + ".json")


def write_sidecar(engine: Path, sidecar: Sidecar) -> None:
    """Write it beside its engine."""
    fields = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in sidecar.to_json().items()]
    write_atomically(sidecar_path(engine), ("{\n" + ",\n".join(fields) + "\n}\n").encode())


def read_sidecar(engine: Path) -> Sidecar:
    """Read what lies beside an engine.

    Raises:
        EngineError: it is missing, unreadable or of another format.
    """
    path = sidecar_path(engine)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.get("format") != FORMAT:
            raise EngineError(
                f"{path}: format {raw.get('format')!r}, expected {FORMAT}; build the engine again"
            )
        recipe = Recipe(**{field.name: raw[field.name] for field in fields(Recipe)})
        rest = {field.name: raw[field.name] for field in fields(Sidecar) if field.name != "recipe"}
        return Sidecar(recipe, **rest)
    except FileNotFoundError:
        raise EngineError(
            f"{path}: missing, expected what `alpamayo-rt build-engine` wrote beside the engine"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{path}: not readable as an engine's description ({type(error).__name__}: {error})"
        ) from None


def check_file(engine: Path, sidecar: Sidecar) -> None:
    """Refuse an engine that is not the one its sidecar describes.

    Raises:
        EngineError: it is missing, truncated or another file.
    """
    if not engine.is_file():
        raise EngineError(f"{engine}: missing, its description {sidecar_path(engine).name} is there")
    size = engine.stat().st_size
    if size != sidecar.bytes:
        what = "truncated, " if size < sidecar.bytes else ""
        raise EngineError(f"{engine}: {what}{size} bytes, its description says {sidecar.bytes}; build it again")
    if fingerprint(engine) != sidecar.fingerprint:
        raise EngineError(f"{engine}: damaged or not the engine that its description was written for")


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

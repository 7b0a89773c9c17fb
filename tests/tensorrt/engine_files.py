# SPDX-License-Identifier: Apache-2.0
"""Engine files and descriptions that no TensorRT made, for what is decided before one is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alpamayo_rt.tensorrt.opening import Place
from alpamayo_rt.tensorrt.sidecar import Recipe, Sidecar, fingerprint, write_sidecar

PLACE = Place("sm120", {"tensorrt-rtx": "1.7.1"}, "tiny", "0123")
RECIPE = Recipe(
    part="expert",
    target="sm120",
    backend="tensorrt-rtx",
    tensorrt="1.7.1",
    model={"name": "tiny", "family": "f", "hash": "0123"},
    precision="fp16",
    contract="shared",
    steps="",
    opset=20,
    onnx="ab",
    ranges=[{"B": [1, 2, 3]}],
    workspace_mib=None,
)


def write_engine(folder: Path, data: bytes = b"engine" * 100, **changes: Any) -> Path:
    """A file with some bytes and its description, in the place of an expert's engine for sm120."""
    (folder / "expert").mkdir(parents=True, exist_ok=True)
    path = folder / "expert" / "sm120.engine"
    path.write_bytes(data)
    description = Sidecar(replace(RECIPE, **changes), [], [], [], len(data), fingerprint(path), {"seconds": 1})
    write_sidecar(path, description)
    return path

# SPDX-License-Identifier: Apache-2.0
"""Stands in for TensorRT from an export folder on: descriptions, engines, and a runtime that runs the ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from fake_library import FakeEngine, fake_library

from alpamayo_rt.checkpoint import open_checkpoint
from alpamayo_rt.engine.bindings import part_bindings
from alpamayo_rt.engine.session import Binding
from alpamayo_rt.tensorrt import folder as building
from alpamayo_rt.tensorrt import stages
from alpamayo_rt.tensorrt.build import Limits
from alpamayo_rt.tensorrt.library import Library
from alpamayo_rt.tensorrt.profiles import Range, profiles_for, shape_range
from alpamayo_rt.tensorrt.sidecar import Sidecar, fingerprint, read_sidecar, write_sidecar

TARGET = "sm120"


def described(binding: Binding) -> dict[str, object]:
    shape = [-1 if isinstance(size, str) else size for size in binding.shape]
    return {"name": binding.name, "dtype": str(binding.dtype).removeprefix("torch."), "shape": shape}


def fake_build(
    folder: Path, part: str, model: str, dtype: torch.dtype, ranges: Mapping[str, Range] | None = None
) -> Path:
    """Write an "engine" (a few bytes) and the description that a build would have written."""
    onnx = folder / part / "model.onnx"
    recipe = building.make_recipe(fake_library(), part, onnx, TARGET, ranges or {}, Limits())
    bindings = part_bindings(open_checkpoint(model).config, part, recipe.contract, dtype)
    profiles = [
        {b.name: [list(s) for s in shape_range(b.shape, profile)] for b in bindings.inputs}
        for profile in profiles_for(part, ranges or {})
    ]
    engine = onnx.with_name(f"{TARGET}.engine")
    engine.write_bytes(b"not an engine")
    inputs, outputs = (list(map(described, kind)) for kind in bindings)
    size, seal = engine.stat().st_size, fingerprint(engine)
    write_sidecar(engine, Sidecar(recipe, inputs, outputs, profiles, size, seal, {"seconds": 0}))
    return engine


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of the target, and a TensorRT that opens what `fake_build` wrote."""

    def opened(library: Library, path: Path) -> FakeEngine:
        return FakeEngine(path.with_name("model.onnx"), read_sidecar(path).profiles)

    monkeypatch.setattr(stages, "gpu_target", lambda device: TARGET)
    monkeypatch.setattr(stages, "installed_versions", lambda paths: {"tensorrt-rtx": fake_library().version})
    monkeypatch.setattr(stages, "open_library", lambda backend: fake_library())
    monkeypatch.setattr(stages, "open_engine", opened)

# SPDX-License-Identifier: Apache-2.0
"""All parts of an export folder become engines, each once."""

from __future__ import annotations

import datetime
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alpamayo_rt import __version__
from alpamayo_rt.engine.bindings import OPSET, PARTS
from alpamayo_rt.engine.onnx_header import read_header
from alpamayo_rt.errors import EngineError
from alpamayo_rt.tensorrt.build import Limits, build_engine
from alpamayo_rt.tensorrt.library import Library
from alpamayo_rt.tensorrt.profiles import Range, profiles_for
from alpamayo_rt.tensorrt.sidecar import (
    Recipe,
    Sidecar,
    check_file,
    fingerprint,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)


def find_parts(folder: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """The ONNX files of an export folder.

    Args:
        folder: as `alpamayo-rt export` wrote it.
        wanted: parts; none means all that are there.

    Raises:
        EngineError: one is missing, or there is none.
    """
    there = {part: folder / part / "model.onnx" for part in PARTS}
    if wanted:
        missing = [str(there[part]) for part in wanted if not there[part].is_file()]
        if missing:
            raise EngineError(f"{missing[0]}: missing, expected what `alpamayo-rt export --parts` wrote")
        return {part: there[part] for part in PARTS if part in wanted}
    found = {part: path for part, path in there.items() if path.is_file()}
    if not found:
        raise EngineError(f"{folder}: no vision, language or expert model.onnx, expected an export's folder")
    return found


def make_recipe(
    library: Library, part: str, onnx: Path, target: str, ranges: Mapping[str, Range], limits: Limits
) -> Recipe:
    """What the part's engine will be.

    Raises:
        EngineError: the file is not an ONNX file, or of another opset or part.
    """
    header = read_header(onnx)
    if header.opset != OPSET:
        raise EngineError(f"{onnx}: ONNX opset {header.opset}, expected {OPSET}, as alpamayo-rt export writes")
    about = header.metadata
    if about.get("part") != part:
        raise EngineError(f"{onnx}: its metadata say part {about.get('part')!r}, expected {part!r}")
    data = onnx.with_name(onnx.name + ".data")
    return Recipe(
        part=part,
        target=target,
        backend=library.backend,
        tensorrt=library.version,
        model={
            "name": about.get("model_name", ""),
            "family": about.get("family", ""),
            "hash": about.get("model_hash", ""),
        },
        precision=about.get("precision", ""),
        contract=about.get("contract", ""),
        steps=about.get("steps", ""),
        opset=header.opset,
        onnx=fingerprint(onnx, *([data] if data.is_file() else [])),
        ranges=[{name: list(r) for name, r in p.items()} for p in profiles_for(part, ranges)],
        workspace_mib=limits.workspace_mib,
    )


def build_part(
    library: Library,
    part: str,
    path: Path,
    target: str,
    ranges: Mapping[str, Range],
    limits: Limits,
    progress: Callable[[str], None],
) -> Sidecar:
    """Build one part, or find it built from an equal recipe.

    Raises:
        EngineError: see `make_recipe` and `build_engine`.
    """
    recipe = make_recipe(library, part, path, target, ranges, limits)
    engine = path.with_name(f"{target}.engine")
    if done := _already(engine, recipe):
        progress(f"{part}: {engine} is already built")
        return done
    # Until the new description stands there, none does: an engine without one is never taken for built.
    sidecar_path(engine).unlink(missing_ok=True)
    start = time.perf_counter()
    profiles = profiles_for(part, ranges)
    network = build_engine(
        library, path, target, profiles, engine, limits, lambda line: progress(f"{part}: {line}")
    )
    build = {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "alpamayo_rt": __version__,
    }
    sidecar = Sidecar(
        recipe,
        network.inputs,
        network.outputs,
        network.profiles,
        engine.stat().st_size,
        fingerprint(engine),
        build,
    )
    write_sidecar(engine, sidecar)
    progress(f"{part}: wrote {engine}, {sidecar.bytes >> 20} MiB in {build['seconds']} s")
    return sidecar


def _already(engine: Path, recipe: Recipe) -> Sidecar | None:
    try:
        sidecar = read_sidecar(engine)
        check_file(engine, sidecar)
    except EngineError:
        return None
    return sidecar if sidecar.recipe == recipe else None

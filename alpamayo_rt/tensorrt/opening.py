# SPDX-License-Identifier: Apache-2.0
"""Which engine file is meant, and whether it is for this GPU, this TensorRT and this model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from alpamayo_rt.errors import EngineError
from alpamayo_rt.tensorrt.library import TENSORRT_RTX
from alpamayo_rt.tensorrt.sidecar import Sidecar, check_file, read_sidecar
from alpamayo_rt.tensorrt.targets import rebuild_command


class Place(NamedTuple):
    """What an engine has to fit.

    Attributes:
        target: the GPU here, such as sm120.
        versions: installed TensorRT by backend.
        model_name: the checkpoint that is loaded, and its hash.
        model_hash: see model_name.
    """

    target: str
    versions: dict[str, str]
    model_name: str
    model_hash: str


def find_engine(named: str, part: str, target: str) -> Path:
    """The engine file that a flag's folder or file means.

    Args:
        named: an engine file, an export folder, or the part's folder in it.
        part: vision, language or expert.
        target: the GPU here.

    Raises:
        EngineError: it is not there; names the engines of other GPUs that are.
    """
    path = Path(named)
    if path.is_file():
        return path
    folders = [folder for folder in (path / part, path) if folder.is_dir()]
    if not folders:
        raise EngineError(f"{path}: missing, expected an engine file or a folder with {part}/{target}.engine")
    for folder in folders:
        if (folder / f"{target}.engine").is_file():
            return folder / f"{target}.engine"
    there = sorted(p.name for folder in folders for p in folder.glob("*.engine"))
    found = f"it has {', '.join(there)}" if there else "it has no engine"
    root = path.parent if path.name == part else path
    raise EngineError(
        f"{folders[0]}: {target}.engine for this GPU is missing, {found}; build it: "
        f"{rebuild_command(str(root), target, TENSORRT_RTX)}"
    )


def open_sidecar(engine: Path, part: str, place: Place) -> Sidecar:
    """Read an engine's description and refuse one that does not belong here.

    Raises:
        EngineError: one line that names both sides and the command that rebuilds.
    """
    sidecar = read_sidecar(engine)
    check_file(engine, sidecar)
    recipe = sidecar.recipe
    folder = str(engine.parent.parent)
    again = f"build it again: {rebuild_command(folder, place.target, recipe.backend)}"
    if recipe.part != part:
        raise EngineError(f"{engine}: an engine of the part {recipe.part}, expected one of {part}")
    if recipe.target != place.target:
        raise EngineError(f"{engine}: built for {recipe.target}, the GPU here is {place.target}; {again}")
    version = place.versions.get(recipe.backend)
    if recipe.tensorrt != version:
        here = f"{version} is installed here" if version else "that library is not installed here"
        raise EngineError(f"{engine}: built by {recipe.backend} {recipe.tensorrt}, {here}; {again}")
    if recipe.model["hash"] != place.model_hash:
        raise EngineError(
            f"{engine}: built from model {recipe.model['name']} ({recipe.model['hash']}), the model is "
            f"{place.model_name} ({place.model_hash}); export it again: alpamayo-rt export "
            f"--model {place.model_name} --out {folder}, and {again}"
        )
    return sidecar

# SPDX-License-Identifier: Apache-2.0
"""Engine files → the parts of an engine that runs them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.bindings import FUSED, PARTS
from alpamayo_rt.engine.expert_inputs import CACHE_BUCKET, Limit
from alpamayo_rt.engine.expert_runner import ExpertRunner
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.session import Binding
from alpamayo_rt.engine.session_engine import SessionEngine, Stages
from alpamayo_rt.engine.session_stages import LanguageStage, VisionStage
from alpamayo_rt.engine_files import EngineFiles, check_expert
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt
from alpamayo_rt.tensorrt.library import installed_version, open_library
from alpamayo_rt.tensorrt.opening import Place, find_engine, open_sidecar
from alpamayo_rt.tensorrt.session import Scratch, TensorRTSession, open_engine
from alpamayo_rt.tensorrt.sidecar import Sidecar, read_sidecar, sidecar_path
from alpamayo_rt.tensorrt.targets import this_gpu

# Where each size of an expert's contract is to be read off: an input and its dimension.
_SIZES = {"B": ("noisy_action", 0), "S": ("kv_cache", 3), "P": ("kv_prefix", 3), "T": ("kv_tail", 3)}


class TensorRTEngine(SessionEngine):
    """A `SessionEngine` whose caches have sizes that recur, so that captured graphs and bound caches do too.

    A request that is larger than the engines were built for is refused before it runs.
    """

    @torch.inference_mode()
    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        """See `Engine`."""
        tokens = len(prompt)
        room += -(tokens + room) % CACHE_BUCKET
        if self.stages.language is not None:
            session = self.stages.language.session
            _check_size(session, "input_ids", 0, tokens, "prompt tokens", "N")
            _check_size(session, "kv_cache", 3, tokens + room, "cached positions", "S")
        return super().prefill(prompt, features, room)

    @torch.inference_mode()
    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        """See `Engine`."""
        if self.stages.vision is not None:
            session = self.stages.vision.session
            sizes = [rows * columns for _, rows, columns in images.grid.tolist()]
            _check_size(session, "pixel_values", 0, max(map(sizes.count, sizes)), "images of one size", "I")
            _check_size(session, "pixel_values", 1, max(sizes), "patches an image", "n")
        return super().encode_images(images, frame_ids)


def find_engine_files(files: EngineFiles, parts: Sequence[str], target: str) -> dict[str, Path]:
    """The engine file of each of the parts that has one.

    Raises:
        EngineError: a flag names something that is not there.
    """
    found = {}
    for part in parts:
        flag, named, needed = files.flag_of(part)
        if named is None:
            continue
        try:
            found[part] = find_engine(named, part, target)
        except EngineError as error:
            if needed:
                raise EngineError(f"{flag}: {error}") from None
    return found


def open_tensorrt_stages(
    paths: Mapping[str, Path],
    config: ModelConfig,
    model_name: str,
    model_hash: str,
    device: torch.device,
    contract: str | None = None,
) -> tuple[Stages, dict[str, TensorRTSession]]:
    """Open engine files and check that they belong to this GPU, this TensorRT and this model.

    Args:
        paths: by part.
        config: of the model.
        model_name: of the checkpoint, and its hash.
        model_hash: see model_name.
        device: the GPU.
        contract: that the expert has to have; None: any.

    Raises:
        EngineError: one line: which file, what is wrong, what was expected.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # TensorRT runs on the current one
    place = Place(gpu_target(device), installed_versions(paths.values()), model_name, model_hash)
    scratch = Scratch(device)
    # All descriptions before the first engine: reading an engine takes seconds.
    sidecars = {part: open_sidecar(path, part, place) for part, path in paths.items()}
    sessions = {part: _open(paths[part], sidecar, device, scratch) for part, sidecar in sidecars.items()}
    vision, language, expert = (sessions.get(part) for part in PARTS)
    stages = Stages(
        None if vision is None else VisionStage(vision, config),
        None if language is None else LanguageStage(language, config),
        None if expert is None else _expert(expert, config, contract),
    )
    return stages, sessions


def gpu_target(device: torch.device) -> str:
    """The target of the GPU that engines will run on.

    Raises:
        EngineError: there is none.
    """
    target = this_gpu(device.index) if device.type == "cuda" else None
    if target is None:
        raise EngineError(
            f"engine: tensorrt runs on an NVIDIA GPU, the device is {device}; expected --device cuda, "
            "or --engine onnxruntime for the same export on the CPU"
        )
    return target


def installed_versions(paths: Iterable[Path]) -> dict[str, str]:
    """Version of every TensorRT that these engines were built by and that is installed here.

    The others are not opened: two TensorRT libraries in one process may disturb each other.

    Raises:
        EngineError: none of them is installed, or an engine has no description.
    """
    backends = sorted({read_sidecar(path).recipe.backend for path in paths})
    found = {backend: installed_version(backend) for backend in backends}
    versions = {backend: version for backend, version in found.items() if version is not None}
    if backends and not versions:
        raise EngineError(
            f"engine: {' and '.join(backends)}, which built these engines, is not installed here; "
            "pip install 'alpamayo-rt[tensorrt]' has tensorrt-rtx, NVIDIA and JetPack have tensorrt"
        )
    return versions


def _open(path: Path, sidecar: Sidecar, device: torch.device, scratch: Scratch) -> TensorRTSession:
    recipe = sidecar.recipe
    library = open_library(recipe.backend)
    metadata = {
        "part": recipe.part,
        "contract": recipe.contract,
        "precision": recipe.precision,
        "steps": recipe.steps,
        **{f"model_{name}": recipe.model[name] for name in ("name", "hash")},
        "family": recipe.model["family"],
    }
    session = TensorRTSession(library, path, open_engine(library, path), metadata, device, scratch)
    for kind, bindings, described in (
        ("input", session.inputs, sidecar.inputs),
        ("output", session.outputs, sidecar.outputs),
    ):
        ours = {b.name: _described(b) for b in bindings}
        theirs = {d["name"]: (d["dtype"], tuple(d["shape"])) for d in described}
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise EngineError(
                    f"{path}: {kind} {name} is {ours.get(name)} in the engine and {theirs.get(name)} in "
                    f"{sidecar_path(path).name}; build the engine again"
                )
    return session


def _described(binding: Binding) -> tuple[str, tuple[int, ...]]:
    shape = tuple(-1 if isinstance(size, str) else size for size in binding.shape)
    return str(binding.dtype).removeprefix("torch."), shape


def _expert(session: TensorRTSession, config: ModelConfig, wanted: str | None) -> ExpertRunner:
    contract = check_expert(session, config, wanted)
    names = ("B", "S") if contract == FUSED else ("B", "P", "T")
    limits = {name: Limit(*session.limits(*_SIZES[name])) for name in names}
    return ExpertRunner(session, contract, limits, capture=session.device.type == "cuda")


def _check_size(session: object, name: str, axis: int, size: int, what: str, dimension: str) -> None:
    if not isinstance(session, TensorRTSession):
        return
    high = session.limits(name, axis)[1]
    if size > high:
        raise InputError(
            f"request: {size} {what}, {session.path} was built for at most {high} ({dimension}); "
            f"build it with --profile {dimension}=MIN:OPT:MAX for more"
        )

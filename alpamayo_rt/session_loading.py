# SPDX-License-Identifier: Apache-2.0
"""`load` for engines that are files: finds or makes them, and leaves the parts without one to eager modules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from alpamayo_rt import __version__
from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.checkpoint import Checkpoint, load_network, open_checkpoint
from alpamayo_rt.engine.bindings import PARTS, SHARED
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.session import Session
from alpamayo_rt.engine.session_engine import SessionEngine, Stages
from alpamayo_rt.engine_files import EngineFiles, find_onnx_files, open_onnx_stages
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.export.folder import ExportFolder, is_export_folder, open_export
from alpamayo_rt.export.run import PRECISIONS, export_model
from alpamayo_rt.inference import Model
from alpamayo_rt.model.network import ActionStatistics
from alpamayo_rt.prompt.tokenizer import PromptTokenizer
from alpamayo_rt.user_cache import cache_folder

Progress = Callable[[str], None] | None


def load_onnx(
    model: str | None,
    files: EngineFiles,
    precision: str,
    device: torch.device,
    progress: Progress = None,
    only: tuple[str, ...] = ("",),
    contract: str | None = None,
    provider: str | None = None,
) -> Model:
    """A model whose parts run in ONNX Runtime.

    Args:
        model: a checkpoint folder, a hub id or nano; None: what the engine folder was exported from.
        files: where exported parts are; without any, all are exported to the user's cache first.
        precision: of what is exported or run eagerly; auto: fp32 on the CPU, else fp16 (exported) and bf16
            (eager), but that of the language model's file for an eager expert.
        device: where tensors live.
        progress: called with one line a step.
        only: prefixes of the modules that will be used (`loading.load`).
        contract: of the expert; None: shared, or what the file has.
        provider: ONNX Runtime's execution provider; None: that of the device.

    Raises:
        ModelError: the checkpoint or the export cannot be used.
        EngineError: a file, a package or the precision does not fit.
    """
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision: {precision!r}, expected auto, {', '.join(PRECISIONS)}")
    checkpoint = _open(model, files)
    parts = _parts(only)
    if files:
        paths = find_onnx_files(files, parts)
    else:
        name = ("fp32" if device.type == "cpu" else "fp16") if precision == "auto" else precision
        paths = export_once(checkpoint, parts, name, contract or SHARED, progress)
    stages, sessions = open_onnx_stages(
        paths, checkpoint.config, checkpoint.fingerprint(), device, provider, contract
    )
    return _assemble(
        "onnxruntime", SessionEngine, checkpoint, parts, stages, sessions, precision, device, progress
    )


def load_tensorrt(
    model: str | None,
    files: EngineFiles,
    precision: str,
    device: torch.device,
    progress: Progress = None,
    only: tuple[str, ...] = ("",),
    contract: str | None = None,
) -> Model:
    """A model whose parts run as TensorRT engines; those without one run eagerly.

    Args:
        model: a checkpoint folder, a hub id or nano; None: what the engine folder was exported from.
        files: where engines are.
        precision: of what is run eagerly; auto: that of the engines.
        device: the GPU.
        progress: called with one line a step.
        only: prefixes of the modules that will be used (`loading.load`).
        contract: that the expert has to have; None: any.

    Raises:
        ModelError: the checkpoint or the export cannot be used.
        EngineError: no GPU, no TensorRT, or an engine that does not belong here.
    """
    from alpamayo_rt.tensorrt.stages import TensorRTEngine, find_engine_files, gpu_target, open_tensorrt_stages

    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision: {precision!r}, expected auto, {', '.join(PRECISIONS)}")
    if not files:
        raise EngineError(
            "engine: tensorrt runs what alpamayo-rt build-engine wrote, expected --engine-dir, "
            "--multimodal-engine-dir or --expert-engine"
        )
    target = gpu_target(device)
    checkpoint = _open(model, files)
    parts = _parts(only)
    paths = find_engine_files(files, parts, target)
    stages, sessions = open_tensorrt_stages(
        paths, checkpoint.config, checkpoint.name, checkpoint.fingerprint(), device, contract
    )
    return _assemble(
        "tensorrt", TensorRTEngine, checkpoint, parts, stages, sessions, precision, device, progress
    )


def _parts(only: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in PARTS if any(f"{part}.".startswith(o) or o.startswith(part) for o in only))


def _assemble(
    kind: str,
    engine_class: type[SessionEngine],
    checkpoint: Checkpoint,
    parts: tuple[str, ...],
    stages: Stages,
    sessions: Mapping[str, Session],
    precision: str,
    device: torch.device,
    progress: Progress,
) -> Model:
    """Sessions, and eager modules for the parts that have none, as one model."""
    precisions = {part: session.metadata.get("precision", "fp32") for part, session in sessions.items()}
    rest = tuple(part for part in parts if part not in sessions)
    # An eager expert reads the session's cache as it is; a session's expert takes one of any type.
    beside = precisions.get("language") if "expert" in rest else None
    other = _eager(checkpoint, rest, precision, beside, device, progress) if rest else None
    cache = stages.language.dtype if stages.language is not None else other.dtype if other else torch.float32
    if stages.language is None and "language" not in parts:
        # The cache will come from a file: in the type that the expert reads.
        cache = PRECISIONS[precisions["expert"]] if "expert" in sessions else cache
    all_precisions = [*precisions.values(), *([other.precision] if other else [])]
    engine = engine_class(kind, all_precisions, stages, other, checkpoint.config, device, cache)
    statistics = _statistics(checkpoint, other if "expert" in rest else None, precisions.get("expert", "fp32"))
    unicycle = Unicycle(
        checkpoint.config.action_space,
        torch.stack([statistics.accel_mean, statistics.curvature_mean]).cpu(),
        torch.stack([statistics.accel_std, statistics.curvature_std]).cpu(),
    )
    return Model(checkpoint, engine, PromptTokenizer(checkpoint.backbone, checkpoint.config), unicycle)


def export_once(
    checkpoint: Checkpoint, parts: tuple[str, ...], precision: str, contract: str, progress: Progress
) -> dict[str, Path]:
    """Export to the user's cache, or find there what an earlier run of the same code has exported.

    Raises:
        EngineError: the precision needs an export folder, or a package is missing.
    """
    if precision not in ("fp32", "fp16", "bf16"):
        raise EngineError(
            f"precision: {precision} needs an export made with a calibration, expected --engine-dir "
            "with a folder that alpamayo-rt export wrote"
        )
    key = f"{checkpoint.fingerprint()}-{precision}-{contract}-{_code_hash()}"
    folder = cache_folder() / "export" / key
    files = EngineFiles(engine_dir=str(folder))
    missing = [part for part in parts if not (folder / part / "model.onnx").is_file()]
    if missing:
        if progress is not None:
            progress(f"exporting {', '.join(missing)} to {folder} (once)")
        export_model(checkpoint, folder, missing, precision, contract)
    return {part: path for part, path in find_onnx_files(files, PARTS).items() if part in parts}


def _code_hash() -> str:
    """Of what decides over a graph, so that a change of it never meets an old export."""
    package = Path(__file__).parent
    sources = sorted(
        [*package.glob("export/*.py"), *package.glob("model/*.py"), package / "engine" / "bindings.py"]
    )
    digest = hashlib.sha256(f"{__version__} {torch.__version__}".encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _open(model: str | None, files: EngineFiles) -> Checkpoint:
    if model is not None:
        return open_checkpoint(str(model))
    folder = Path(files.engine_dir or "").expanduser()
    if not files.engine_dir or not is_export_folder(folder):
        raise InputError(
            "--model: missing, expected a checkpoint folder or a hub id, "
            "or an --engine-dir with a config and tokenizer that alpamayo-rt export wrote"
        )
    return open_export(folder)


def _eager(
    checkpoint: Checkpoint,
    parts: tuple[str, ...],
    precision: str,
    beside: str | None,
    device: torch.device,
    progress: Progress,
) -> EagerEngine:
    """The parts that no file has."""
    if isinstance(checkpoint, ExportFolder):
        raise EngineError(
            f"{checkpoint.folder}: has no {' and no '.join(parts)}, expected them exported too, or a --model"
        )
    default = beside or ("fp32" if device.type == "cpu" else "bf16")
    name = default if precision == "auto" else precision
    name = "fp16" if name == "fp8" else name
    only = tuple(f"{part}." for part in parts)
    network = load_network(checkpoint, device, PRECISIONS[name], progress, (*only, "action_space."))
    return EagerEngine(network, checkpoint.config, device, PRECISIONS[name], name)


def _statistics(checkpoint: Checkpoint, other: EagerEngine | None, precision: str) -> ActionStatistics:
    """As the expert's precision has them."""
    if other is not None:
        return other.network.action_space
    if isinstance(checkpoint, ExportFolder):
        return ActionStatistics(checkpoint.config.action_space)
    cpu = torch.device("cpu")
    return load_network(checkpoint, cpu, PRECISIONS[precision], only=("action_space.",)).action_space

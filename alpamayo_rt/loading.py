# SPDX-License-Identifier: Apache-2.0
"""`load`: a model name, an engine, a precision and a device become a `Model`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.checkpoint import load_network, open_checkpoint
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine_files import EngineFiles
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.prompt.tokenizer import PromptTokenizer

ENGINES = ("auto", "eager", "graphs", "onnxruntime", "tensorrt")
_AVAILABLE = ("auto", "eager", "onnxruntime", "tensorrt")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LATER_PRECISIONS = ("fp8", "int4")


def load(
    model: str | None,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
    only: tuple[str, ...] = ("",),
    engine_dir: str | None = None,
    multimodal_engine_dir: str | None = None,
    expert_engine: str | None = None,
    contract: str | None = None,
    execution_provider: str | None = None,
) -> Model:
    """Open a checkpoint and put it on an engine.

    Args:
        model: a checkpoint folder or a hub id; None: what `engine_dir` was exported from.
        engine: eager, onnxruntime or tensorrt; auto: tensorrt or onnxruntime where engine files are named, by
            what they are, else eager.
        precision: fp32, fp16 or bf16; auto: fp32 on the CPU, bf16 on a GPU.
        device: a torch device; auto: the first GPU, else the CPU.
        progress: called with one line per shard.
        only: parts to load (`checkpoint.load_network`); whoever leaves some out cannot use them.
        engine_dir: exported files, of the language model at least; see docs/export.md.
        multimodal_engine_dir: the same, of the vision tower.
        expert_engine: the same, of the expert.
        contract: that the expert's file has to have; what it is exported with where there is no file.
        execution_provider: of ONNX Runtime; None: that of the device.

    Raises:
        ModelError: the checkpoint cannot be used.
        EngineError: the engine, precision or device is not available.
    """
    where = find_device(device)
    check_engine(engine)
    files = EngineFiles(engine_dir, multimodal_engine_dir, expert_engine)
    if engine in ("onnxruntime", "tensorrt") or files:
        from alpamayo_rt.session_loading import load_onnx, load_tensorrt

        if engine not in ("auto", "onnxruntime", "tensorrt"):
            raise EngineError(
                f"engine: {engine} takes no engine files, expected onnxruntime or tensorrt, or no engine flags"
            )
        if engine == "tensorrt" or (engine == "auto" and files.are_engines()):
            if execution_provider is not None:
                raise EngineError(
                    f"execution_provider: {execution_provider}, but the engine is tensorrt, not onnxruntime"
                )
            return load_tensorrt(model, files, precision, where, progress, only, contract)
        return load_onnx(model, files, precision, where, progress, only, contract, execution_provider)
    for option, given in (("contract", contract), ("execution_provider", execution_provider)):
        if given is not None:
            raise EngineError(
                f"{option}: {given}, but the engine {engine} exports nothing, expected onnxruntime"
            )
    name = _precision(precision, where)
    if model is None:
        raise InputError("--model: missing, expected a checkpoint folder or a hub id")
    checkpoint = open_checkpoint(str(model))
    tokenizer = PromptTokenizer(checkpoint.backbone, checkpoint.config)
    network = load_network(checkpoint, where, PRECISIONS[name], progress, only)
    statistics = network.action_space
    unicycle = Unicycle(
        checkpoint.config.action_space,
        torch.stack([statistics.accel_mean, statistics.curvature_mean]).cpu(),
        torch.stack([statistics.accel_std, statistics.curvature_std]).cpu(),
    )
    eager = EagerEngine(network, checkpoint.config, where, PRECISIONS[name], name)
    return Model(checkpoint, eager, tokenizer, unicycle)


def check_engine(engine: str) -> None:
    """Refuse an engine that does not exist or is not in this version."""
    if engine not in ENGINES:
        raise EngineError(f"engine: {engine!r}, expected one of {', '.join(ENGINES)}")
    if engine not in _AVAILABLE:
        raise EngineError(
            f"engine: {engine} is not part of this version, expected {' or '.join(_AVAILABLE[1:])}"
        )


def _precision(precision: str, device: torch.device) -> str:
    if precision == "auto":
        return "fp32" if device.type == "cpu" else "bf16"
    if precision in LATER_PRECISIONS:
        raise EngineError(
            f"precision: {precision} is not part of this version, expected {', '.join(PRECISIONS)}"
        )
    if precision not in PRECISIONS:
        raise EngineError(f"precision: {precision!r}, expected auto, {', '.join(PRECISIONS)}")
    return precision


def find_device(device: str) -> torch.device:
    """The device that a user names.

    Raises:
        EngineError: it does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError:
        raise EngineError(f"device: {device!r}, expected auto, cpu, cuda or cuda:N") from None
    if where.type not in ("cpu", "cuda"):
        raise EngineError(f"device: {device!r} is not supported, expected auto, cpu, cuda or cuda:N")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device: {device}, but {torch.cuda.device_count()} CUDA device(s) are here")
    return where

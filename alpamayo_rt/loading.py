# SPDX-License-Identifier: Apache-2.0
"""`load`: a model name, an engine, a precision and a device become a `Model`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec

import torch

from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.checkpoint import Checkpoint, empty_network, load_network, open_checkpoint
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine_files import EngineFiles
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.model.network import Network
from alpamayo_rt.precisions import PRECISIONS
from alpamayo_rt.prompt.tokenizer import PromptTokenizer
from alpamayo_rt.quantization.linear import has_fp8
from alpamayo_rt.quantization.memory import weight_bytes, weights_in
from alpamayo_rt.quantization.parts import MAY_NARROW, NARROW, check_parts
from alpamayo_rt.quantization.plan import Plan
from alpamayo_rt.room import check_room

ENGINES = ("auto", "eager", "graphs", "onnxruntime", "tensorrt")


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
    parts: Iterable[str] | None = None,
) -> Model:
    """Open a checkpoint and put it on an engine.

    Args:
        model: a checkpoint folder or a hub id; None: what `engine_dir` was exported from.
        engine: eager, graphs, onnxruntime or tensorrt; auto: tensorrt or onnxruntime where engine files are
            named, by what they are, else graphs on a GPU that has what it takes, else eager.
        precision: fp32, fp16 or bf16; auto: fp32 on the CPU, bf16 on a GPU, or what the checkpoint was narrowed
            to. fp8 and int4 narrow the language model, or `parts`, while it is loaded (`docs/quantization.md`);
            what is left runs as auto would run it.
        device: a torch device; auto: the first GPU, else the CPU.
        progress: called with one line per shard.
        only: parts to load (`checkpoint.load_network`); whoever leaves some out cannot use them.
        engine_dir: exported files, of the language model at least; see docs/export.md.
        multimodal_engine_dir: the same, of the vision tower.
        expert_engine: the same, of the expert.
        contract: that the expert's file has to have; what it is exported with where there is no file.
        execution_provider: of ONNX Runtime; None: that of the device.
        parts: what fp8 and int4 narrow: language, vision, expert; None: language.

    Raises:
        ModelError: the checkpoint cannot be used.
        InputError: a part is unknown, or the precision narrows nothing.
        EngineError: the engine, precision or device is not available.
    """
    where = find_device(device)
    check_engine(engine)
    files = EngineFiles(engine_dir, multimodal_engine_dir, expert_engine)
    chosen = None if parts is None else check_parts(parts)
    if engine in ("onnxruntime", "tensorrt") or files:
        from alpamayo_rt.session_loading import load_onnx, load_tensorrt

        if chosen is not None:
            raise InputError(
                f"parts: {', '.join(chosen)}, but engine files are narrowed when they are exported"
            )
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
    check_precision(precision)
    if model is None:
        raise InputError("--model: missing, expected a checkpoint folder or a hub id")
    checkpoint = open_checkpoint(str(model))
    tokenizer = PromptTokenizer(checkpoint.backbone, checkpoint.config)
    name, plan = choose_plan(checkpoint, precision, where, progress, chosen)
    dtype = PRECISIONS[name if plan is None else _surrounding(where)]
    if where.type == "cuda" and only == ("",):
        empty = empty_network(checkpoint)
        parameters = sum(weights_in(empty, slot, p.numel()) for slot, p in empty.named_parameters())
        narrow = ("language",) if plan is None else plan.parts
        sizes = weight_bytes(checkpoint.plan, empty, parameters, narrow)
        check_room({kind: size for kind, (size, _) in sizes.items()}, name, where)
    network = load_network(checkpoint, where, dtype, progress, only, plan)
    statistics = network.action_space
    unicycle = Unicycle(
        checkpoint.config.action_space,
        torch.stack([statistics.accel_mean, statistics.curvature_mean]).cpu(),
        torch.stack([statistics.accel_std, statistics.curvature_std]).cpu(),
    )
    runs = make_engine(engine, network, checkpoint.config, where, dtype, name, progress)
    return Model(checkpoint, runs, tokenizer, unicycle)


def make_engine(
    engine: str,
    network: Network,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    precision: str,
    progress: Callable[[str], None] | None = None,
) -> Engine:
    """Put a network on an engine that runs modules.

    Args:
        engine: eager; graphs, which needs an NVIDIA GPU of compute capability 8.0 or later, and Triton; or
            auto: graphs where they run, but in float32 eager.
        network: loaded, on `device`.
        config: of the network.
        device: where it runs.
        dtype: of all that is not narrowed.
        precision: what it is called.
        progress: is told in one line why auto is eager on a GPU.

    Raises:
        EngineError: the engine does not run modules, or not there.
    """
    check_engine(engine)
    if engine not in ("auto", "eager", "graphs"):
        raise EngineError(f"engine: {engine} runs files, expected auto, eager or graphs")
    lacking = graphs_lack(device)
    if engine == "graphs" and lacking:
        raise EngineError(f"engine: graphs, but {lacking}; expected eager there")
    if engine == "graphs" or (engine == "auto" and not lacking and dtype != torch.float32):
        from alpamayo_rt.engine.graphs.engine import GraphEngine

        return GraphEngine(network, config, device, dtype, precision)
    if engine == "auto" and lacking and device.type == "cuda" and progress is not None:
        progress(f"engine: eager, because {lacking}")
    return EagerEngine(network, config, device, dtype, precision)


def graphs_lack(device: torch.device) -> str | None:
    """What a device lacks for the engine `graphs`, in words, or None."""
    if device.type != "cuda":
        return f"{device} has no CUDA graphs"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        name = torch.cuda.get_device_name(device)
        return f"{name} has compute capability {major}.{minor} (8.0 or later is needed)"
    if find_spec("triton") is None:
        return "the package triton is missing"
    return None


def check_engine(engine: str) -> None:
    """Refuse an engine that does not exist."""
    if engine not in ENGINES:
        raise EngineError(f"engine: {engine!r}, expected one of {', '.join(ENGINES)}")


def check_precision(precision: str) -> None:
    """Refuse a precision that does not exist."""
    if precision not in ("auto", *PRECISIONS, *NARROW):
        raise EngineError(f"precision: {precision!r}, expected auto, {', '.join((*PRECISIONS, *NARROW))}")


def named_parts(parts: tuple[str, ...] | None, precision: str) -> tuple[str, ...]:
    """The parts that a precision narrows; without a choice the language model.

    Raises:
        InputError: there is a choice, and the precision narrows nothing.
    """
    if parts is not None and precision not in NARROW:
        raise InputError(
            f"parts: {', '.join(parts)}, but the precision is {precision}, expected {' or '.join(NARROW)}"
        )
    return ("language",) if parts is None else check_parts(parts)


def check_narrows(parts: tuple[str, ...] | None, precisions: Sequence[str]) -> None:
    """Refuse a choice of parts where none of the precisions that are about to be used may narrow them.

    Raises:
        InputError: see `named_parts`.
    """
    if not any(precision in MAY_NARROW for precision in precisions):
        named_parts(parts, precisions[0])


def _surrounding(device: torch.device) -> str:
    return "fp32" if device.type == "cpu" else "bf16"


def choose_plan(
    checkpoint: Checkpoint,
    precision: str,
    device: torch.device,
    progress: Callable[[str], None] | None,
    parts: tuple[str, ...] | None = None,
) -> tuple[str, Plan | None]:
    """The precision that a checkpoint runs in on a device, and how it is narrowed.

    Args:
        checkpoint: in a floating type, or narrowed.
        precision: what the user asked for; auto: the checkpoint's, else that of the device.
        device: fp8 from a floating checkpoint becomes bf16 on a GPU that has no e4m3 products.
        progress: is told in one line what is not as it was asked for.
        parts: that the precision narrows; None: what the checkpoint has narrowed, else the language model.

    Returns:
        One of PRECISIONS and None, or the label (`parts.label_of`) of a plan and that plan.

    Raises:
        EngineError: the checkpoint is narrowed to something else.
        InputError: other parts of it are narrowed, or the precision narrows nothing.
    """
    say = progress if progress is not None else lambda _: None
    if checkpoint.plan is not None:
        held = checkpoint.plan.precision
        if precision not in ("auto", held):
            raise EngineError(
                f"precision: {precision}, but the checkpoint holds {held} weights, expected {held}"
            )
        if parts not in (None, checkpoint.plan.parts):
            raise InputError(
                f"parts: {', '.join(parts)}, but the checkpoint holds {held} weights in "
                f"{', '.join(checkpoint.plan.parts)}"
            )
    name = precision if checkpoint.plan is None else held
    if name == "auto":
        name = _surrounding(device)
    narrow = named_parts(parts, name)
    if name not in NARROW:
        return name, None
    own = name == "int4" or has_fp8(device)
    if not own and device.type == "cuda" and checkpoint.plan is None:
        gpu = torch.cuda.get_device_name(device)
        say(f"precision: {gpu} has no fp8 products (compute capability 8.9 or later has), running in bf16")
        return "bf16", None
    if device.type == "cpu" or not own:
        around = _surrounding(device)
        say(f"precision: {name} on {device} runs in plain torch, all but the narrowed weights in {around}")
    plan = checkpoint.plan or Plan(name, narrow)
    return plan.label, plan


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

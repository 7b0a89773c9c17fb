# SPDX-License-Identifier: Apache-2.0
"""`export_model`: a checkpoint → an export folder, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from alpamayo_rt.checkpoint import Checkpoint, load_network
from alpamayo_rt.engine.bindings import (
    CONTRACTS,
    OPSET,
    PARTS,
    SHARED,
    SHARED_LOOP,
    expert_bindings,
    part_bindings,
)
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.export.expert import FusedExpert, SharedExpert
from alpamayo_rt.export.folder import Progress, make_folder, origin_of, write_config, write_model
from alpamayo_rt.export.language import ExportedLanguage
from alpamayo_rt.export.qdq import quantize
from alpamayo_rt.export.trace import require_exporter, trace
from alpamayo_rt.export.unroll import unroll
from alpamayo_rt.export.vision import ExportedVision
from alpamayo_rt.model.network import Network
from alpamayo_rt.quantization.calibration import Calibration

PRECISIONS = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    # Around the quantized products; float16 because every runtime has it.
    "fp8": torch.float16,
}


def export_model(
    checkpoint: Checkpoint,
    out: Path,
    parts: Sequence[str] = PARTS,
    precision: str = "fp16",
    contract: str = SHARED,
    steps: int | None = None,
    calibration: Calibration | None = None,
    progress: Progress = lambda line: None,
) -> None:
    """Write `out/config.json`, the tokenizer's files and `out/<part>/model.onnx`.

    Args:
        checkpoint: an opened checkpoint.
        out: the folder; parts that it already has and that are not asked for stay.
        parts: of vision, language and expert.
        precision: fp32, fp16, bf16, or fp8 (e4m3 products in float16 surroundings).
        contract: of the expert: fused, shared or shared-loop.
        steps: of shared-loop; None: as the model's config says.
        calibration: what the linear layers read; needed for fp8.
        progress: called with one line a part.

    Raises:
        EngineError: a package is missing, or what is asked for does not exist.
        InputError: the folder cannot be written.
    """
    _check(parts, precision, contract, steps, calibration)
    require_exporter()
    if calibration is not None:
        calibration.check_model(checkpoint.fingerprint())
    make_folder(out)
    dtype = PRECISIONS[precision]
    for part in [part for part in PARTS if part in parts]:
        network = load_network(checkpoint, torch.device("cpu"), dtype, None, (f"{part}.", "action_space."))
        write_config(out, checkpoint, network.action_space)
        metadata = origin_of(checkpoint) | {"part": part, "precision": precision, "opset": str(OPSET)}
        if part == "expert":
            metadata["contract"] = contract
        progress(f"tracing {part} ({precision}{', ' + contract if part == 'expert' else ''})")
        first = SHARED if contract == SHARED_LOOP else contract
        bindings = part_bindings(checkpoint.config, part, first, dtype)
        module = _module(network, part, first, checkpoint.config.action_space.n_waypoints)
        model = trace(module, bindings)
        if calibration is not None:
            quantize(model, part, calibration)
        if part == "expert" and contract == SHARED_LOOP:
            count = steps or checkpoint.config.num_diffusion_steps
            metadata["steps"] = str(count)
            unroll(model, expert_bindings(checkpoint.config, SHARED_LOOP, dtype), count)
        size = write_model(out / part, model, metadata)
        progress(f"wrote {out / part} ({size / 1e6:.1f} MB)")


def _check(
    parts: Sequence[str], precision: str, contract: str, steps: int | None, calibration: Calibration | None
) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(f"parts: {', '.join(unknown) or 'none'}, expected some of {', '.join(PARTS)}")
    if precision not in PRECISIONS:
        raise EngineError(f"precision: {precision!r}, expected {', '.join(PRECISIONS)}")
    if contract not in CONTRACTS:
        raise EngineError(f"contract: {contract!r}, expected {', '.join(CONTRACTS)}")
    if steps is not None and (contract != SHARED_LOOP or steps < 1):
        raise InputError(f"steps: {steps}, expected a number from 1 on, and the contract {SHARED_LOOP}")
    if (precision == "fp8") != (calibration is not None):
        raise InputError(
            "calibration: missing, fp8 needs what the linear layers read (alpamayo-rt calibrate writes it)"
            if calibration is None
            else f"calibration: goes with precision fp8, not with {precision}"
        )


def _module(network: Network, part: str, contract: str, waypoints: int) -> nn.Module:
    if part == "vision":
        return ExportedVision(network.vision)
    if part == "language":
        return ExportedLanguage(network.language)
    return (SharedExpert if contract == SHARED else FusedExpert)(network.expert, waypoints)

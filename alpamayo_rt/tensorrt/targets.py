# SPDX-License-Identifier: Apache-2.0
"""Which GPU an engine is built for, and which TensorRT can do that where."""

from __future__ import annotations

import re

from alpamayo_rt.errors import EngineError
from alpamayo_rt.tensorrt.library import TENSORRT, TENSORRT_RTX

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
_MACHINES = {
    "sm87": "a Jetson Orin",
    "sm90": "an H100 or H200",
    "sm100": "a B200",
    "sm110": "a Jetson AGX Thor",
}


def check_target(target: str, backend: str, folder: str) -> None:
    """Refuse a target that the backend cannot build here.

    Args:
        target: sm and the compute capability without its dot.
        backend: tensorrt or tensorrt-rtx.
        folder: of the ONNX files, for the command in the message.

    Raises:
        EngineError: one line that says where to run what.
    """
    if not re.fullmatch(r"sm\d{2,3}", target):
        raise EngineError(f"--target: {target!r}, expected sm and a compute capability, such as sm110 or sm120")
    where = _MACHINES.get(target, f"a machine with an {target} GPU")
    command = f"alpamayo-rt build-engine {folder} --target {target} --backend {TENSORRT}"
    if backend == TENSORRT_RTX:
        if target not in RTX_TARGETS:
            raise EngineError(
                f"--target: TensorRT for RTX does not build for {target}, expected one of "
                f"{', '.join(RTX_TARGETS)}; run `{command}` on {where}"
            )
        return
    here = this_gpu()
    if here != target:
        found = f"the GPU here is {here}" if here else "there is no GPU here"
        raise EngineError(
            f"--target: TensorRT builds for the GPU that it runs on and {found}; run `{command}` on {where}"
        )


def this_gpu(device: int | None = None) -> str | None:
    """The target that a CUDA device is (None: the current one), or None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def rebuild_command(folder: str, target: str, backend: str) -> str:
    """The command that builds `folder` for a GPU, with a backend that can."""
    able = TENSORRT if target not in RTX_TARGETS else backend
    return f"alpamayo-rt build-engine {folder} --target {target} --backend {able}"

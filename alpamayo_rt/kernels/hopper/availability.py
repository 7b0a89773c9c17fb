# SPDX-License-Identifier: Apache-2.0
"""Kernels for Hopper where they can be had, and one line in the log where not."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import torch

from alpamayo_rt.errors import EngineError
from alpamayo_rt.kernels.hopper.compiler import CompilerError
from alpamayo_rt.kernels.hopper.driver import DriverError

_LOG = logging.getLogger(__name__)

VARIABLE = "ALPAMAYO_RT_HOPPER"
"""`off`: go without these kernels; `on`, as if it is not set: take them where they suit."""


def wanted() -> bool:
    """What the environment says.

    Raises:
        EngineError: it says something else.
    """
    said = os.environ.get(VARIABLE, "on")
    if said not in ("on", "off"):
        raise EngineError(f"{VARIABLE}: {said!r}, expected one of on, off")
    return said == "on"


def on_hopper(*matrices: torch.Tensor) -> bool:
    """Whether they lie there as the kernels want them: bfloat16, contiguous, at multiples of 16 bytes."""
    return all(
        m.is_cuda and m.dtype == torch.bfloat16 and m.is_contiguous() and m.data_ptr() % 16 == 0
        for m in matrices
    ) and torch.cuda.get_device_capability(matrices[0].device) == (9, 0)


class Chosen:
    """A kernel that may turn out not to be available: then it is never tried again.

    Args:
        name: of what it does, for the log.
        kernel: launches it.
    """

    def __init__(self, name: str, kernel: Callable[..., None]):
        self._name, self._kernel, self._broken = name, kernel, False

    def __call__(self, *arguments: object) -> bool:
        """Launch it; False: somebody else has to do the work.

        Raises:
            EngineError: see `wanted`.
        """
        if self._broken or not wanted():
            return False
        try:
            self._kernel(*arguments)
        except (CompilerError, DriverError) as error:
            self._broken = True
            _LOG.warning("%s: without the kernel for Hopper: %s", self._name, str(error)[:300])
            return False
        return True

# SPDX-License-Identifier: Apache-2.0
"""Whether an operation runs as a Triton kernel or as its torch twin."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

_HAS_TRITON = find_spec("triton") is not None
"""Torch for some devices comes without it; the twins run there too, only slower."""


def uses_triton(tensor: torch.Tensor) -> bool:
    """Whether an operation on this tensor runs as a Triton kernel."""
    return _HAS_TRITON and (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")

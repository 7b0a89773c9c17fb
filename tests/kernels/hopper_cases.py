# SPDX-License-Identifier: Apache-2.0
"""What the tests of the kernels for Hopper share."""

from __future__ import annotations

import pytest
import torch


def needs_hopper() -> None:
    """Skip on another GPU."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("no Hopper GPU")


def distance(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2; all of `out` is finite."""
    assert bool(out.isfinite().all())
    return float((out.double() - expected).norm() / expected.norm())

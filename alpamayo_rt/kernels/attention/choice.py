# SPDX-License-Identifier: Apache-2.0
"""Which kernel serves the expert's attention here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from alpamayo_rt.kernels.attention import triton_expert
from alpamayo_rt.kernels.attention.scratch import ExpertScratch
from alpamayo_rt.kernels.hopper import expert
from alpamayo_rt.kernels.hopper.availability import Chosen


def expert_kernel(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scratch: ExpertScratch,
) -> Callable[..., None]:
    """The kernel that serves them best: `hopper.expert` where it suits, else Triton's."""
    if expert.suits(q, keys, values, own_keys, own_values, scratch):
        return _on_hopper
    return triton_expert.expert_attention


def _on_hopper(*arguments: object) -> None:
    """Triton's, where the kernel for Hopper is not available."""
    if not _HOPPER(*arguments):
        triton_expert.expert_attention(*arguments)  # type: ignore[arg-type]


_HOPPER = Chosen("expert attention", expert.expert_attention)

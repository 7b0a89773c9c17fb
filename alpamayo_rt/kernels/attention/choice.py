# SPDX-License-Identifier: Apache-2.0
"""Which kernel serves the expert's attention here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from triton.errors import TritonError

from alpamayo_rt.kernels.attention import triton_expert
from alpamayo_rt.kernels.attention.scratch import UNIT, ExpertScratch

_LOG = logging.getLogger(__name__)


def suits_hopper(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scratch: ExpertScratch,
) -> bool:
    """Whether `hopper_expert` can serve such arguments of `operations.expert_attention`."""
    _, waypoints, _, dim = q.shape
    return (
        scratch.configuration.specialized
        and q.is_cuda
        and q.dtype in (torch.bfloat16, torch.float16)
        and scratch.parts.dtype == torch.float16
        and dim == 128
        and waypoints % UNIT == 0
        and all(t.is_contiguous() for t in (q, keys, values, own_keys, own_values))
        and torch.cuda.get_device_capability(q.device)[0] == 9
    )


def expert_kernel(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    own_keys: torch.Tensor,
    own_values: torch.Tensor,
    scratch: ExpertScratch,
) -> Callable[..., None]:
    """The kernel that serves them best."""
    if suits_hopper(q, keys, values, own_keys, own_values, scratch) and (kernel := _hopper()) is not None:
        return kernel
    return triton_expert.expert_attention


@cache
def _hopper() -> Callable[..., None] | None:
    """The kernel for Hopper, where the Triton that is installed can make it: Gluon changes with versions."""
    try:
        from alpamayo_rt.kernels.attention.hopper_expert import expert_attention
    except (ImportError, AttributeError) as error:
        _LOG.warning("expert attention: without warps that specialise, as Triton lacks something: %s", error)
        return None
    broken = False

    def attend(*arguments: object) -> None:
        nonlocal broken
        if not broken:
            try:
                return expert_attention(*arguments)  # type: ignore[arg-type]
            except TritonError as error:
                broken = True
                kind = type(error).__name__
                _LOG.warning("expert attention: without warps that specialise, as Triton fails: %s", kind)
        return triton_expert.expert_attention(*arguments)  # type: ignore[arg-type]

    return attend

# SPDX-License-Identifier: Apache-2.0
"""The four operations between an expert engine's bindings: cache, position ids, flow time, Euler step.

Each writes into a buffer that its caller owns, reads nothing back to the host, and can be captured in a CUDA
graph. On a GPU (and everywhere under TRITON_INTERPRET=1) it is a Triton kernel; elsewhere, and without Triton,
its torch twin, which has the same signature and is the kernel's oracle.
"""

from __future__ import annotations

import torch

from alpamayo_rt.kernels.dispatch import uses_triton


def repeat_cache(keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor, length: torch.Tensor) -> None:
    """One sequence's cache → the `kv_cache` binding, once for every candidate, zero from `length` on.

    Args:
        keys: (layers, kv heads, slots, head dim), a view whose last dimension is contiguous.
        values: likewise.
        out: (2 · layers, candidates, kv heads, S, head dim) contiguous, of any floating type, each layer's keys
            before its values. S may be more or less than `slots`.
        length: () int64, tokens that are copied; at most min(slots, S).
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.contract import triton_kernels

        triton_kernels.repeat_cache(keys, values, out, length)
    else:
        repeat_cache_twin(keys, values, out, length)


def repeat_cache_twin(
    keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor, length: torch.Tensor
) -> None:
    """See `repeat_cache`."""
    copied = min(keys.shape[2], out.shape[3])
    here = torch.arange(copied, device=keys.device)[:, None] < length
    for part, source in enumerate((keys, values)):
        tokens = torch.where(here, source[:, :, :copied].to(out.dtype), 0)
        out[part::2, :, :, :copied] = tokens[:, None]
    out[:, :, :, copied:] = 0


def build_position_ids(start: torch.Tensor, out: torch.Tensor) -> None:
    """Positions of each candidate's own tokens: its start, then one more a waypoint, alike in all components.

    Args:
        start: (candidates,) int64: attended tokens + rope delta.
        out: (3, candidates, waypoints) int64, contiguous.
    """
    if uses_triton(out):
        from alpamayo_rt.kernels.contract import triton_kernels

        triton_kernels.build_position_ids(start, out)
    else:
        build_position_ids_twin(start, out)


def build_position_ids_twin(start: torch.Tensor, out: torch.Tensor) -> None:
    """See `build_position_ids`."""
    out.copy_(start[:, None] + torch.arange(out.shape[2], device=out.device))


def fill_timestep(time: torch.Tensor, out: torch.Tensor) -> None:
    """Flow time () float32 → every element of `out` (any shape, contiguous, float32)."""
    if uses_triton(out):
        from alpamayo_rt.kernels.contract import triton_kernels

        triton_kernels.fill_timestep(time, out)
    else:
        fill_timestep_twin(time, out)


def fill_timestep_twin(time: torch.Tensor, out: torch.Tensor) -> None:
    """See `fill_timestep`."""
    out.copy_(time)


def euler_update(x: torch.Tensor, velocity: torch.Tensor, dt: torch.Tensor) -> None:
    """x += velocity · dt, in place; x and velocity contiguous float32 of one shape, dt () float32."""
    if uses_triton(x):
        from alpamayo_rt.kernels.contract import triton_kernels

        triton_kernels.euler_update(x, velocity, dt)
    else:
        euler_update_twin(x, velocity, dt)


def euler_update_twin(x: torch.Tensor, velocity: torch.Tensor, dt: torch.Tensor) -> None:
    """See `euler_update`."""
    x += velocity * dt

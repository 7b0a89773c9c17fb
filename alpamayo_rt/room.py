# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits on a device, asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from alpamayo_rt.errors import EngineError

BESIDE = 2**30
"""Beside the weights at least: cache and activations of the smallest request."""


def check_room(sizes: Mapping[str, int], precision: str, device: torch.device) -> None:
    """Refuse weights that a device has no room for.

    Args:
        sizes: precision → bytes of the weights.
        precision: what is about to be loaded; one that `sizes` lacks is let through.
        device: where.

    Raises:
        EngineError: says what is needed, what is free, and which precisions would fit.
    """
    free = _free_bytes(device)
    if free is None or precision not in sizes or sizes[precision] + BESIDE <= free:
        return
    fitting = [name for name, size in sizes.items() if size + BESIDE <= free]
    raise EngineError(
        f"precision: {precision} needs {sizes[precision] / 2**30:.1f} GiB for weights and 1 GiB beside them, "
        f"{device} has {free / 2**30:.1f} GiB free; {' or '.join(fitting) or 'nothing'} would fit"
    )


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None

# SPDX-License-Identifier: Apache-2.0
"""What an output says about how it was made."""

from __future__ import annotations

import platform
from typing import Any

from alpamayo_rt.inference import Model


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import torch

    from alpamayo_rt import __version__

    return {"alpamayo_rt": __version__, "torch": torch.__version__, "python": platform.python_version()}


def run_header(model: Model) -> dict[str, Any]:
    """What every output file says about how it was made."""
    import torch

    device = model.engine.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "model": model.provenance(),
        "engine": model.engine.name,
        "precision": model.engine.precision,
        "device": f"{device} ({name})",
        "versions": versions(),
    }

# SPDX-License-Identifier: Apache-2.0
"""alpamayo-rt: run NVIDIA's open driving model Alpamayo.

>>> import alpamayo_rt
>>> model = alpamayo_rt.load("nano")  # or a folder, or a hub id
>>> result = model.infer(alpamayo_rt.Sample(frames, [0, 1, 2, 6], history_xyz, history_rot))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alpamayo_rt.errors import AlpamayoError, DatasetError, EngineError, InputError, ModelError
    from alpamayo_rt.inference import Model
    from alpamayo_rt.loading import load
    from alpamayo_rt.result import Result
    from alpamayo_rt.sample.sample import Sample

__version__ = "0.1.0"
__all__ = [
    "AlpamayoError", "DatasetError", "EngineError", "InputError",
    "Model", "ModelError", "Result", "Sample", "load",
]  # fmt: skip

_HOMES = {
    "Model": "inference", "load": "loading", "Result": "result", "Sample": "sample.sample",
    "AlpamayoError": "errors", "DatasetError": "errors", "EngineError": "errors",
    "InputError": "errors", "ModelError": "errors",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: some parts (the world's simulation) need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

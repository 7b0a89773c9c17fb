# SPDX-License-Identifier: Apache-2.0
"""alpamayo-rt: run NVIDIA's open driving model Alpamayo.

>>> import alpamayo_rt
>>> model = alpamayo_rt.load("path/to/checkpoint")
>>> result = model.infer(alpamayo_rt.Sample(frames, [0, 1, 2, 6], history_xyz, history_rot))
"""

from alpamayo_rt.errors import AlpamayoError, DatasetError, EngineError, InputError, ModelError
from alpamayo_rt.inference import Model
from alpamayo_rt.loading import load
from alpamayo_rt.result import Result
from alpamayo_rt.sample.sample import Sample

__version__ = "0.1.0"
__all__ = [
    "AlpamayoError",
    "DatasetError",
    "EngineError",
    "InputError",
    "Model",
    "ModelError",
    "Result",
    "Sample",
    "load",
]

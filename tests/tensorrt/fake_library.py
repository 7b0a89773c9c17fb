# SPDX-License-Identifier: Apache-2.0
"""TensorRT's runtime classes as far as a session uses them, over an ONNX file that ONNX Runtime executes.

Like TensorRT it knows tensors by address alone: what it reads and writes is what lies there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alpamayo_rt.tensorrt.library import Library

onnxruntime = pytest.importorskip("onnxruntime")

Shape = tuple[int, ...]
Profiles = Sequence[Mapping[str, Sequence[Sequence[int]]]]
_TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(bool)": ("BOOL", np.bool_),
}


class Mode(Enum):
    INPUT, OUTPUT = 1, 2


class Strategy(Enum):
    USER_MANAGED = 1


class FakeContext:
    """Refuses what TensorRT refuses: a shape outside its profile, a missing address or working memory."""

    def __init__(self, engine: FakeEngine):
        self.engine, self.profile, self.memory = engine, -1, 0
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = address

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        low, _, high = self.engine.profiles[self.profile][name]
        assert all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        return tuple(self._run()[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory
        for name, value in self._run().items():
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)
        return not self.engine.broken

    def _run(self) -> dict[str, np.ndarray]:
        feeds = {}
        for name, shape in self.shapes.items():
            kind = np.dtype(self.engine.types[name][1])
            assert self.addresses[name]
            data = ctypes.string_at(self.addresses[name], int(np.prod(shape)) * kind.itemsize)
            feeds[name] = np.frombuffer(data, kind).reshape(shape)
        names = [output.name for output in self.engine.session.get_outputs()]
        return dict(zip(names, self.engine.session.run(names, feeds), strict=True))


class FakeEngine:
    device_memory_size_v2 = 4096

    def __init__(self, onnx: Path, profiles: Profiles):
        self.session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
        self.profiles, self.broken, self.contexts = profiles, False, 0
        self._inputs = {value.name for value in self.session.get_inputs()}
        values = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.types = {value.name: _TYPES[value.type] for value in values}
        self._shapes = {v.name: tuple(n if isinstance(n, int) else -1 for n in v.shape) for v in values}
        self._names = list(self.types)
        self.num_io_tensors, self.num_optimization_profiles = len(self._names), len(profiles)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self._inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.types[name][0])

    def get_tensor_shape(self, name: str) -> Shape:
        return self._shapes[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> Sequence[Sequence[int]]:
        return self.profiles[index][name]

    def create_execution_context(self, strategy: Strategy) -> FakeContext:
        assert strategy is Strategy.USER_MANAGED
        self.contexts += 1
        return FakeContext(self)


def fake_library() -> Library:
    api = SimpleNamespace(TensorIOMode=Mode, ExecutionContextAllocationStrategy=Strategy)
    return Library(api, "tensorrt-rtx", "1.7.1", SimpleNamespace(lines=[]))

# SPDX-License-Identifier: Apache-2.0
"""A TensorRT engine as a `Session`: torch tensors are bound where they lie, the current stream runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from alpamayo_rt.engine.session import Binding
from alpamayo_rt.errors import EngineError
from alpamayo_rt.tensorrt.build import DTYPES
from alpamayo_rt.tensorrt.library import Library

_ANY = "?"
"""The name of every size that the engine leaves open; an engine does not keep their names."""


class Scratch:
    """Working memory that all engines of a process share: they run one after another.

    Every engine says what it needs before the first one runs; the address then stays, as captured graphs need.
    """

    def __init__(self, device: torch.device):
        self._device, self._bytes = device, 0
        self._buffer: torch.Tensor | None = None

    def reserve(self, count: int) -> None:
        """Make sure of so many bytes."""
        self._bytes = max(self._bytes, count)

    def buffer(self) -> torch.Tensor:
        """(bytes,) uint8."""
        if self._buffer is None or len(self._buffer) < self._bytes:
            self._buffer = torch.empty(max(self._bytes, 256), dtype=torch.uint8, device=self._device)
        return self._buffer


class TensorRTSession:
    """See `Session`.

    Args:
        library: an opened TensorRT.
        path: of the engine file.
        engine: the opened engine (`open_engine`).
        metadata: part, contract, precision and model of the engine.
        device: the GPU.
        scratch: working memory, shared with the other sessions.
    """

    def __init__(
        self,
        library: Library,
        path: Path,
        engine: Any,
        metadata: Mapping[str, str],
        device: torch.device,
        scratch: Scratch,
    ):
        self.path, self.metadata, self.device = path, metadata, device
        self._library, self._engine, self._scratch = library, engine, scratch
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = {n: engine.get_tensor_mode(n) == library.api.TensorIOMode.INPUT for n in names}
        self.inputs = tuple(self._binding(n) for n in names if is_input[n])
        self.outputs = tuple(self._binding(n) for n in names if not is_input[n])
        # One context a profile: none has to wait for another to change its own.
        self._profiles = [
            {b.name: tuple(map(tuple, engine.get_tensor_profile_shape(b.name, p))) for b in self.inputs}
            for p in range(engine.num_optimization_profiles)
        ]
        self._contexts: list[Any] = [None] * len(self._profiles)
        scratch.reserve(engine.device_memory_size_v2)

    def limits(self, name: str, axis: int) -> tuple[int, int]:
        """Smallest and largest size of an input's dimension over all profiles."""
        return (
            min(profile[name][0][axis] for profile in self._profiles),
            max(profile[name][2][axis] for profile in self._profiles),
        )

    def run(
        self, feeds: Mapping[str, torch.Tensor], out: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """See `Session`."""
        for binding in self.inputs:
            self._check(binding, feeds.get(binding.name))
        context = self._context({name: tuple(tensor.shape) for name, tensor in feeds.items()})
        scratch = self._scratch.buffer()
        context.set_device_memory(scratch.data_ptr(), scratch.numel())
        for binding in self.inputs:
            tensor = feeds[binding.name]
            context.set_input_shape(binding.name, tuple(tensor.shape))
            # An empty tensor has no address, which TensorRT takes for a missing one.
            context.set_tensor_address(binding.name, tensor.data_ptr() or scratch.data_ptr())
        results = {}
        for binding in self.outputs:
            shape = tuple(context.get_tensor_shape(binding.name))
            results[binding.name] = self._output(binding, shape, (out or {}).get(binding.name))
            context.set_tensor_address(binding.name, results[binding.name].data_ptr())
        stream = torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0
        if not context.execute_async_v3(stream):
            raise EngineError(f"{self.path}: TensorRT did not run it ({self._reason()})")
        return results

    def _binding(self, name: str) -> Binding:
        dtype = getattr(torch, DTYPES[self._engine.get_tensor_dtype(name).name])
        shape = tuple(_ANY if size == -1 else size for size in self._engine.get_tensor_shape(name))
        return Binding(name, dtype, shape)

    def _check(self, binding: Binding, tensor: torch.Tensor | None) -> None:
        if tensor is None:
            raise EngineError(f"{self.path}: input {binding.name} was not given, expected {binding}")
        fits = tensor.dtype == binding.dtype and tensor.device.type == self.device.type
        if not fits or not tensor.is_contiguous():
            raise EngineError(
                f"{self.path}: input {binding.name} is {tensor.dtype} on {tensor.device}, "
                f"expected {binding}, contiguous on {self.device}"
            )

    def _context(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """The context of the first profile that these shapes fit."""
        for index, profile in enumerate(self._profiles):
            if self._misfit(profile, shapes) is None:
                return self._contexts[index] or self._create(index)
        raise EngineError(f"{self.path}: {self._misfit(self._profiles[0], shapes)}")

    def _misfit(
        self, profile: Mapping[str, Sequence[Sequence[int]]], shapes: Mapping[str, tuple[int, ...]]
    ) -> str | None:
        for binding in self.inputs:
            low, _, high = profile[binding.name]
            shape = shapes[binding.name]
            if len(shape) != len(low):
                return f"input {binding.name} has {len(shape)} dimensions, expected {len(low)}"
            for axis, size in enumerate(shape):
                if not low[axis] <= size <= high[axis]:
                    return (
                        f"input {binding.name} has size {size} in dimension {axis}, "
                        f"the engine was built for {low[axis]} to {high[axis]}"
                    )
        return None

    def _create(self, index: int) -> Any:
        strategy = self._library.api.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        stream = torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0
        if context is None or not context.set_optimization_profile_async(index, stream):
            raise EngineError(f"{self.path}: TensorRT made no context for profile {index} ({self._reason()})")
        self._contexts[index] = context
        return context

    def _output(self, binding: Binding, shape: tuple[int, ...], given: torch.Tensor | None) -> torch.Tensor:
        if given is None:
            return torch.empty(shape, dtype=binding.dtype, device=self.device)
        if tuple(given.shape) != shape or given.dtype != binding.dtype or not given.is_contiguous():
            raise EngineError(
                f"{self.path}: output {binding.name} is {given.dtype} {tuple(given.shape)}, "
                f"expected {binding.dtype} {shape}, contiguous"
            )
        return given

    def _reason(self) -> str:
        complaints = self._library.complaints()
        return complaints[0] if complaints else "it gives no reason"


def open_engine(library: Library, path: Path) -> Any:
    """Open an engine file.

    Raises:
        EngineError: TensorRT refuses it: no driver, another GPU, another version, a damaged file.
    """
    library.complaints()
    runtime = library.api.Runtime(library.logger)
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        complaints = library.complaints()
        why = complaints[0] if complaints else "it gives no reason"
        raise EngineError(f"{path}: TensorRT cannot open it ({why})")
    return engine

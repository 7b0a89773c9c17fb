# SPDX-License-Identifier: Apache-2.0
"""An exported ONNX file behind ONNX Runtime, on the CPU or any of its execution providers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alpamayo_rt.engine.bindings import OPSET
from alpamayo_rt.engine.onnx_header import read_header
from alpamayo_rt.engine.session import Binding, Shape
from alpamayo_rt.errors import EngineError

# ONNX Runtime's name of a type → ours, and the number of ONNX's own list, which it takes for bindings.
_TYPES = {
    "tensor(float)": (torch.float32, 1),
    "tensor(int32)": (torch.int32, 6),
    "tensor(int64)": (torch.int64, 7),
    "tensor(bool)": (torch.bool, 9),
    "tensor(float16)": (torch.float16, 10),
    "tensor(bfloat16)": (torch.bfloat16, 16),
}
_NUMBERS = dict(_TYPES.values())
_CPU = "CPUExecutionProvider"


class OnnxSession:
    """A `Session` (engine/session.py) over an ONNX file.

    Args:
        path: the file.
        device: where tensors are given and taken. A CUDA device needs ONNX Runtime's CUDA provider.
        provider: an execution provider by its name; None: that of the device. Whatever it cannot run is left to
            the CPU, as ONNX Runtime does.

    Raises:
        EngineError: ONNX Runtime or the provider is missing, or it cannot open the file.
    """

    def __init__(self, path: Path, device: torch.device, provider: str | None = None):
        runtime = _runtime()
        provider = provider or ("CUDAExecutionProvider" if device.type == "cuda" else _CPU)
        if provider not in runtime.get_available_providers():
            raise EngineError(
                f"onnxruntime: {provider} is not part of the installed package, "
                f"expected one of {', '.join(runtime.get_available_providers())}"
            )
        header = read_header(path)
        if header.opset != OPSET:
            raise EngineError(
                f"{path}: ONNX opset {header.opset}, expected {OPSET}, as alpamayo-rt export writes"
            )
        self.path, self.device, self.metadata = path, device, header.metadata
        self.provider = provider
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about its own optimizations
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=list(dict.fromkeys((provider, _CPU)))
            )
        except Exception as error:  # its classes have no common base but this one
            raise EngineError(f"{path}: ONNX Runtime cannot open it ({_first_line(error)})") from None
        self.inputs = tuple(map(self._binding, self._session.get_inputs()))
        self.outputs = tuple(map(self._binding, self._session.get_outputs()))

    @torch.inference_mode()
    def run(
        self, feeds: Mapping[str, torch.Tensor], out: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """See `Session.run`. Nothing is copied: ONNX Runtime reads and writes the tensors where they lie."""
        sizes: dict[str, int] = {}
        binding = self._session.io_binding()
        for wanted in self.inputs:
            tensor = feeds.get(wanted.name)
            if tensor is None:
                raise EngineError(f"{self.path}: input {wanted.name} was not given, expected {wanted}")
            self._check(wanted, tensor, "input", sizes)
            binding.bind_input(*self._place(wanted.name, tensor))
        outputs = {}
        for wanted in self.outputs:
            tensor = (out or {}).get(wanted.name)
            if tensor is None:
                tensor = torch.empty(self._shape(wanted, sizes), dtype=wanted.dtype, device=self.device)
            else:
                self._check(wanted, tensor, "output", sizes)
            outputs[wanted.name] = tensor
            binding.bind_output(*self._place(wanted.name, tensor))
        try:
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise EngineError(f"{self.path}: ONNX Runtime cannot run it ({_first_line(error)})") from None
        return outputs

    def _binding(self, value: Any) -> Binding:
        if value.type not in _TYPES:
            raise EngineError(
                f"{self.path}: {value.name} is a {value.type}, expected one of {', '.join(_TYPES)}"
            )
        shape = tuple(size if isinstance(size, int | str) else "?" for size in value.shape)
        return Binding(value.name, _TYPES[value.type][0], shape)

    def _check(self, wanted: Binding, tensor: torch.Tensor, kind: str, sizes: dict[str, int]) -> None:
        fits = (
            tensor.dtype == wanted.dtype
            and tensor.ndim == len(wanted.shape)
            and tensor.is_contiguous()
            and tensor.device.type == self.device.type
            and all(
                size == (sizes.setdefault(named, size) if isinstance(named, str) else named)
                for named, size in zip(wanted.shape, tensor.shape, strict=True)
            )
        )
        if not fits:
            known = "".join(f", {name} = {size}" for name, size in sizes.items() if name in wanted.shape)
            raise EngineError(
                f"{self.path}: {kind} {wanted.name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {wanted}{known}, contiguous, on {self.device}"
            )

    def _shape(self, wanted: Binding, sizes: dict[str, int]) -> list[int]:
        unknown = [size for size in wanted.shape if isinstance(size, str) and size not in sizes]
        if unknown:
            raise EngineError(f"{self.path}: output {wanted} needs a buffer, no input has a size {unknown[0]}")
        return [size if isinstance(size, int) else sizes[size] for size in wanted.shape]

    def _place(self, name: str, tensor: torch.Tensor) -> tuple[str, str, int, int, Shape, int]:
        number = _NUMBERS[tensor.dtype]
        return (
            name,
            tensor.device.type,
            tensor.device.index or 0,
            number,
            tuple(tensor.shape),
            tensor.data_ptr(),
        )


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"onnxruntime: cannot be imported ({_first_line(error)}), "
            "run: pip install 'alpamayo-rt[onnxruntime]'"
        ) from None
    return onnxruntime


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

# SPDX-License-Identifier: Apache-2.0
"""What is needed of the CUDA driver, bound with ctypes: tensor maps, and launches of compiled kernels.

Names and values of the constants are those of NVIDIA's `cuda.h`; they are part of its ABI.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch

from alpamayo_rt.kernels.skinny import configurations

# CUfunction_attribute
MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
# CUlaunchAttributeID
CLUSTER_DIMENSION, PROGRAMMATIC_STREAM_SERIALIZATION = 4, 6
# CUtensorMapDataType, CUtensorMapSwizzle; of CUtensorMapL2promotion the one in use, 256 bytes
MAP_TYPES = {torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
MAP_SWIZZLE = {0: 0, 32: 1, 64: 2, 128: 3}
MAP_PROMOTION = 3


class DriverError(RuntimeError):
    """A call of the driver has failed."""


class TensorMap(ctypes.Structure):
    """`CUtensorMap`, 128 bytes; where it is written it must be aligned to 64."""

    _fields_ = (("words", ctypes.c_uint64 * 16),)


Argument = torch.Tensor | TensorMap | int | float | bytes | None
"""What a kernel may be given."""


class _Attribute(ctypes.Structure):
    """`CUlaunchAttribute`: the number, and a union of 64 bytes of which up to three words are used."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint32 * 16))


class _Configuration(ctypes.Structure):
    """`CUlaunchConfig`."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


@cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DriverError(f"CUDA driver: {error}") from error
    driver.cuGetErrorString.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
    return driver


def call(name: str, *arguments: Any) -> None:
    """Call a function of the driver.

    Raises:
        DriverError: it does not return success.
    """
    status = getattr(_driver(), name)(*arguments)
    if status != 0:
        said = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(said))
        raise DriverError(f"{name}: {(said.value or b'unknown error').decode()}")


def tensor_map(matrix: torch.Tensor, rows: int, columns: int, swizzle: int = 128) -> TensorMap:
    """Tiles (rows, columns) of a matrix whose rows lie `stride(0)` apart and whose columns are neighbours.

    Args:
        matrix: (M, N) on a GPU; its address and the bytes between rows divisible by 16.
        rows: of a tile, at most 256.
        columns: of a tile; with a swizzle, their bytes are at most that.
        swizzle: 0, 32, 64 or 128: how 16-byte pieces of neighbouring rows are spread over shared memory.

    Raises:
        DriverError: the driver refuses.
    """
    size = matrix.element_size()
    room = ctypes.create_string_buffer(ctypes.sizeof(TensorMap) + 64)
    made = TensorMap.from_buffer(room, -ctypes.addressof(room) % 64)
    sizes, strides = (matrix.shape[1], matrix.shape[0]), (matrix.stride(0) * size,)
    call(
        "cuTensorMapEncodeTiled", ctypes.byref(made), MAP_TYPES[matrix.dtype], 2,
        ctypes.c_void_p(matrix.data_ptr()), (ctypes.c_uint64 * 2)(*sizes), (ctypes.c_uint64 * 1)(*strides),
        (ctypes.c_uint32 * 2)(columns, rows), (ctypes.c_uint32 * 2)(1, 1), 0, MAP_SWIZZLE[swizzle],
        MAP_PROMOTION, 0,
    )  # fmt: skip
    return made


class Kernel:
    """A function of compiled code on a GPU.

    Args:
        device: its number.
        code: a cubin.
        name: of the function, declared `extern "C"`.
        threads: of a block.
        shared_bytes: dynamic shared memory of a block.
        cluster: neighbouring blocks (along x) that share.

    Raises:
        DriverError: the driver refuses.
    """

    def __init__(self, device: int, code: bytes, name: str, threads: int, shared_bytes: int, cluster: int = 1):
        self.threads, self.shared_bytes, self.cluster, self._device = threads, shared_bytes, cluster, device
        module = ctypes.c_void_p()
        self.function = ctypes.c_void_p()
        with torch.cuda.device(device):
            torch.cuda.current_stream()  # there is a context now
            call("cuModuleLoadData", ctypes.byref(module), code)
            call("cuModuleGetFunction", ctypes.byref(self.function), module, name.encode())
            size = ctypes.c_int(shared_bytes)
            call("cuFuncSetAttribute", self.function, MAX_DYNAMIC_SHARED_SIZE_BYTES, size)

    def __call__(self, grid: tuple[int, int, int], *arguments: Argument) -> None:
        """Launch on the current stream of its GPU.

        With `PROGRAMMATIC_LAUNCH` it may start before the kernel before it has ended, and then waits itself.

        Args:
            grid: blocks.
            arguments: a tensor becomes its address, None no address, a Python number 32 bits; bytes are a
                structure.
        """
        values = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        attributes = (_Attribute * 2)()
        attributes[0].id, attributes[0].value[:3] = CLUSTER_DIMENSION, (self.cluster, 1, 1)
        overlap = int(configurations.PROGRAMMATIC_LAUNCH)
        attributes[1].id, attributes[1].value[0] = PROGRAMMATIC_STREAM_SERIALIZATION, overlap
        block = (self.threads, 1, 1)
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream().cuda_stream
            configuration = _Configuration(grid, block, self.shared_bytes, stream, attributes, 2)
            call("cuLaunchKernelEx", ctypes.byref(configuration), self.function, pointers, None)


def _value(argument: Argument) -> Any:
    """As ctypes has it."""
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    if isinstance(argument, bytes):
        return ctypes.create_string_buffer(argument, len(argument))
    return argument

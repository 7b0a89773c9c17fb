# SPDX-License-Identifier: Apache-2.0
"""What is needed of cuBLASLt, bound with ctypes: a product, and all algorithms that are proposed for it.

Torch always takes the first proposal. The library is the one that torch has loaded, so that nothing is
installed or built for this. Names and values of the constants are those of NVIDIA's `cublasLt.h`,
`cublas_api.h` and `library_types.h`; they are part of its ABI.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alpamayo_rt.kernels.products.lanes import current_lane
from alpamayo_rt.kernels.products.product import Product

# cublasStatus_t
SUCCESS, NOT_SUPPORTED = 0, 15
# cublasComputeType_t, cudaDataType_t, cublasOperation_t
COMPUTE_32F = 68
R_32F = 0
TYPES = {torch.float16: 2, torch.bfloat16: 14}
"""CUDA_R_16F and CUDA_R_16BF."""
SCALED_TYPES = {torch.float8_e4m3fn: 28}
"""CUDA_R_8F_E4M3, which x and the weight may have, with scales."""
OP_N, OP_T = 0, 1
# cublasLtMatmulDescAttributes_t
DESC_TRANSA, DESC_TRANSB, DESC_EPILOGUE, DESC_BIAS_POINTER = 3, 4, 7, 8
DESC_A_SCALE_POINTER, DESC_B_SCALE_POINTER, DESC_FAST_ACCUM = 17, 18, 25
DESC_A_SCALE_MODE, DESC_B_SCALE_MODE = 31, 32
# cublasLtMatmulMatrixScale_t: a number for each row of A as it is multiplied, and for each column of B
SCALE_OUTER_VECTORS = 3
# cublasLtEpilogue_t; its GELU is the tanh approximation
EPILOGUE = {(False, False): 1, (True, False): 4, (False, True): 32, (True, True): 36}
"""(bias, GELU) → DEFAULT, BIAS, GELU, GELU_BIAS."""
# cublasLtMatmulPreferenceAttributes_t
PREF_MAX_WORKSPACE_BYTES, PREF_REDUCTION_SCHEME_MASK = 1, 3
PREF_MIN_ALIGNMENTS = (5, 6, 7, 8)
"""Of A, B, C and D, in bytes."""
# cublasLtReductionScheme_t
REDUCTION_COMPUTE_TYPE = 2
"""Parts of a divided sum stay float32 and are added in a fixed order. The other schemes round them."""

WORKSPACE_BYTES = 64 << 20
MOST_CANDIDATES = 16
ALIGNMENT = 256
"""The largest that the library asks for."""


class LibraryError(RuntimeError):
    """A call of cuBLASLt has failed."""


class HeuristicResult(ctypes.Structure):
    """`cublasLtMatmulHeuristicResult_t`, 96 bytes; `cublasLtMatmulAlgo_t` is its first 64."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8),
        ("workspace_size", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves_count", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class Key(NamedTuple):
    """All that an algorithm depends on.

    Attributes:
        m: rows of x and out.
        n: rows of the weight, columns of out.
        k: columns of x and of the weight.
        strides: between the rows of x, weight and out, in elements.
        alignments: of x, weight, out and bias, in bytes, `ALIGNMENT` at most.
        dtype: of out and bias, and of the other two where these have no scales.
        bias: whether there is one.
        gelu: whether a GELU follows.
        add: whether out is added to.
        device: number of the GPU.
        inputs: the type of x and weight where they have scales.
    """

    m: int
    n: int
    k: int
    strides: tuple[int, int, int]
    alignments: tuple[int, int, int, int]
    dtype: torch.dtype
    bias: bool
    gelu: bool
    add: bool
    device: int
    inputs: torch.dtype | None = None


_P, _INT = ctypes.c_void_p, ctypes.c_int
_SIGNATURES: dict[str, Sequence[Any]] = {
    "cublasLtCreate": (_P,),
    "cublasLtMatmulDescCreate": (_P, _INT, _INT),
    "cublasLtMatmulDescSetAttribute": (_P, _INT, _P, ctypes.c_size_t),
    "cublasLtMatrixLayoutCreate": (_P, _INT, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    "cublasLtMatmulPreferenceCreate": (_P,),
    "cublasLtMatmulPreferenceSetAttribute": (_P, _INT, _P, ctypes.c_size_t),
    "cublasLtMatmulPreferenceDestroy": (_P,),
    "cublasLtMatmulAlgoGetHeuristic": (_P, _P, _P, _P, _P, _P, _P, _INT, _P, _P),
    "cublasLtMatmul": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, ctypes.c_size_t, _P),
}
"""All return a cublasStatus_t. Handles and pointers to anything are `_P`."""


class Library:
    """cuBLASLt on one GPU: a handle, and a workspace for the products of each lane.

    Those of one lane must not run at the same time in two streams.
    """

    def __init__(self, functions: ctypes.CDLL, device: torch.device):
        for name, arguments in _SIGNATURES.items():
            function = getattr(functions, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        self._functions = functions
        self.lock = threading.Lock()
        self._handle = ctypes.c_void_p()
        with torch.cuda.device(device):
            self.call("cublasLtCreate", ctypes.byref(self._handle))
        self._device = device
        self._workspaces = {0: self._new_workspace()}

    def _new_workspace(self) -> torch.Tensor:
        return torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=self._device)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            LibraryError: it does not return success.
        """
        status = getattr(self._functions, name)(*arguments)
        if status != SUCCESS:
            raise LibraryError(f"{name}: status {status}, expected {SUCCESS}")

    def plan(self, key: Key, product: Product) -> Plan:
        """The product of this key, with the algorithms proposed for it, best first; maybe none."""
        return Plan(self, key, product)

    def heuristics(self, key: Key, description: ctypes.c_void_p, *layouts: ctypes.c_void_p) -> list[Any]:
        """Algorithms for A, B and out, of which the last is C and D at once."""
        preference = ctypes.c_void_p()
        self.call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        try:
            wanted: list[tuple[int, Any]] = [
                (PREF_MAX_WORKSPACE_BYTES, ctypes.c_uint64(WORKSPACE_BYTES)),
                (PREF_REDUCTION_SCHEME_MASK, ctypes.c_uint32(REDUCTION_COMPUTE_TYPE)),
            ]
            x, weight, out, bias = key.alignments
            # The library has no word for the bias; it counts with out, which it is added to.
            aligned = (weight, x, min(out, bias), min(out, bias))
            wanted += [(a, ctypes.c_uint32(n)) for a, n in zip(PREF_MIN_ALIGNMENTS, aligned, strict=True)]
            for attribute, value in wanted:
                size = ctypes.sizeof(value)
                self.call(
                    "cublasLtMatmulPreferenceSetAttribute", preference, attribute, ctypes.byref(value), size
                )
            results, found = (HeuristicResult * MOST_CANDIDATES)(), ctypes.c_int()
            a, b, c = layouts
            status = self._functions.cublasLtMatmulAlgoGetHeuristic(
                self._handle, description, a, b, c, c, preference, MOST_CANDIDATES, results, ctypes.byref(found)
            )
        finally:
            self.call("cublasLtMatmulPreferenceDestroy", preference)
        if status == NOT_SUPPORTED:
            return []
        if status != SUCCESS:
            raise LibraryError(f"cublasLtMatmulAlgoGetHeuristic: status {status}, expected {SUCCESS}")
        return [r for r in results[: found.value] if r.state == SUCCESS and r.workspace_size <= WORKSPACE_BYTES]

    def matmul(self, description: ctypes.c_void_p, *arguments: Any) -> None:
        """`cublasLtMatmul` with this handle and the lane's workspace on the current stream."""
        stream, lane = torch.cuda.current_stream(self._device).cuda_stream, current_lane()
        if lane not in self._workspaces:
            self._workspaces[lane] = self._new_workspace()
        workspace = self._workspaces[lane].data_ptr()
        self.call("cublasLtMatmul", self._handle, description, *arguments, workspace, WORKSPACE_BYTES, stream)


class Plan:
    """A product, and algorithms for it. Lives as long as the process, as do its descriptors.

    The library counts columns first: a row-major matrix is its own transpose to it. So it is asked for outᵀ =
    W · xᵀ, with A = Wᵀ as it sees W, transposed, and B = xᵀ, as it sees x.
    """

    def __init__(self, library: Library, key: Key, product: Product):
        self._library = library
        self._description = ctypes.c_void_p()
        library.call("cublasLtMatmulDescCreate", ctypes.byref(self._description), COMPUTE_32F, R_32F)
        self._describe(DESC_TRANSA, ctypes.c_int32(OP_T))
        self._describe(DESC_TRANSB, ctypes.c_int32(OP_N))
        self._describe(DESC_EPILOGUE, ctypes.c_uint32(EPILOGUE[key.bias, key.gelu]))
        if product.scales is not None:
            self._describe(DESC_FAST_ACCUM, ctypes.c_int8(1))
            for attribute in (DESC_A_SCALE_MODE, DESC_B_SCALE_MODE):
                self._describe(attribute, ctypes.c_int32(SCALE_OUTER_VECTORS))
        self._point(product)
        x, weight, out = key.strides
        target = TYPES[key.dtype]
        kind = target if key.inputs is None else SCALED_TYPES[key.inputs]
        self._a = self._layout(kind, key.k, key.n, weight)
        self._b = self._layout(kind, key.k, key.m, x)
        self._c = self._layout(target, key.n, key.m, out)
        self._alpha, self._beta = ctypes.c_float(1), ctypes.c_float(float(key.add))
        self.candidates = library.heuristics(key, self._description, self._a, self._b, self._c)

    def _describe(self, attribute: int, value: Any) -> None:
        self._library.call(
            "cublasLtMatmulDescSetAttribute",
            self._description,
            attribute,
            ctypes.byref(value),
            ctypes.sizeof(value),
        )

    def _point(self, product: Product) -> None:
        """Say where the vectors of a call are."""
        if product.bias is not None:
            self._describe(DESC_BIAS_POINTER, ctypes.c_void_p(product.bias.data_ptr()))
        if product.scales is not None:
            self._describe(DESC_A_SCALE_POINTER, ctypes.c_void_p(product.scales.weight.data_ptr()))
            self._describe(DESC_B_SCALE_POINTER, ctypes.c_void_p(product.scales.x.data_ptr()))

    def _layout(self, kind: int, rows: int, columns: int, stride: int) -> ctypes.c_void_p:
        layout = ctypes.c_void_p()
        self._library.call("cublasLtMatrixLayoutCreate", ctypes.byref(layout), kind, rows, columns, stride)
        return layout

    def run(self, number: int, product: Product) -> None:
        """A product of the same key by one of the candidates, on the current stream of their GPU."""
        x, weight, out = (matrix.data_ptr() for matrix in (product.x, product.weight, product.out))
        algorithm = ctypes.byref(self.candidates[number].algo)
        added = out if product.base is None else product.base.data_ptr()
        with self._library.lock, torch.cuda.device(product.out.device):
            self._point(product)
            self._library.matmul(
                self._description, ctypes.byref(self._alpha), weight, self._a, x, self._b,
                ctypes.byref(self._beta), added, self._c, out, self._c, algorithm,
            )  # fmt: skip


def find_library() -> ctypes.CDLL | None:
    """cuBLASLt, as `load_library` finds it; None without any."""
    return None if torch.version.cuda is None else load_library("cublasLt")


def load_library(stem: str) -> ctypes.CDLL | None:
    """lib`stem` of NVIDIA's, of the release that torch was built for, or of any where it was built for none.

    The one that torch has loaded, else the one beside torch, else the system's; None without any.
    """
    release = "*" if torch.version.cuda is None else torch.version.cuda.split(".")[0]
    name = f"lib{stem}.so.{release}"
    beside = sorted((Path(torch.__file__).parent.parent / "nvidia").glob(f"**/{name}"))
    tries = [(name, getattr(os, "RTLD_NOLOAD", 0)), *((str(path), 0) for path in beside), (name, 0)]
    for path, mode in tries:
        try:
            return ctypes.CDLL(path, mode=mode)
        except OSError:
            continue
    return None

# SPDX-License-Identifier: Apache-2.0
"""Which algorithm does a product: chosen at its first call, and kept as long as the process lives."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Protocol

import torch

from alpamayo_rt.errors import EngineError
from alpamayo_rt.kernels.products import timing
from alpamayo_rt.kernels.products.library import ALIGNMENT, TYPES, Key, Library, LibraryError, find_library
from alpamayo_rt.kernels.products.product import Product, Scales
from alpamayo_rt.kernels.products.scaled import fits, scaled_by_torch
from alpamayo_rt.kernels.products.timing import Run, fastest, scratch_products

_LOG = logging.getLogger(__name__)

VARIABLE = "ALPAMAYO_RT_PRODUCTS"
"""Names the way to choose: one of `MODES`, `fastest` if it is not set."""
MODES = ("fastest", "first", "torch")
"""`fastest` is timed, so that two processes may round differently; the other two are not."""


class Candidates(Protocol):
    """What `Products` needs of a `library.Plan`."""

    @property
    def candidates(self) -> list[object]:
        """The algorithms, best first."""

    def run(self, number: int, product: Product) -> None:
        """Do the product by one of them."""


Plans = Callable[[Key, Product], Candidates]


def mode_of_environment() -> str:
    """One of `MODES`.

    Raises:
        EngineError: the variable says something else.
    """
    mode = os.environ.get(VARIABLE, MODES[0])
    if mode not in MODES:
        raise EngineError(f"{VARIABLE}: {mode!r}, expected one of {', '.join(MODES)}")
    return mode


def key_of(product: Product) -> Key | None:
    """The key of a product, or None where the library is not for it."""
    x, weight, out, bias, gelu, add, base, scales = product
    matrices, vectors = (x, weight, out), () if bias is None else (bias,)
    (m, k), n = x.shape, weight.shape[0]
    alike = (*(matrices if scales is None else (out,)), *vectors)
    if (
        out.dtype not in TYPES
        or any(t.dtype != out.dtype for t in alike)
        or any(t.stride(-1) != 1 for t in (*matrices, *vectors))
        or any(t.stride(0) < max(t.shape[1], 1) for t in matrices)
        or not m * n * k
        or (scales is not None and not _takes(scales, x, weight, out))
    ):
        return None
    strides = (x.stride(0), weight.stride(0), out.stride(0))
    aligned = (
        _alignment(x),
        _alignment(weight),
        min(_alignment(out), ALIGNMENT if base is None else _alignment(base)),
        ALIGNMENT if bias is None else _alignment(bias),
    )
    kind = None if scales is None else x.dtype
    return Key(m, n, k, strides, aligned, out.dtype, bias is not None, gelu, add, out.device.index or 0, kind)


def _takes(scales: Scales, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> bool:
    vectors = all(
        scale.dtype == torch.float32 and scale.is_contiguous() and scale.numel() == len(matrix)
        for scale, matrix in zip(scales, (x, weight), strict=True)
    )
    return vectors and fits(x, weight, out)


def _alignment(tensor: torch.Tensor) -> int:
    address = tensor.data_ptr()
    return min(address & -address or ALIGNMENT, ALIGNMENT)


def by_torch(product: Product) -> None:
    """The product by torch's own operations, one where there is one for it."""
    x, weight, out, bias, gelu, add, base, scales = product
    right = weight.t()
    if scales is not None:
        scaled_by_torch(product)
    elif add:
        torch.addmm(out if base is None else base, x, right, out=out)
        if bias is not None:
            out += bias
    elif gelu and bias is not None and x.is_cuda and x.dtype in TYPES:
        torch._addmm_activation(bias, x, right, use_gelu=True, out=out)
    else:
        if bias is None:
            torch.mm(x, right, out=out)
        else:
            torch.addmm(bias, x, right, out=out)
        if gelu:
            out.copy_(torch.nn.functional.gelu(out, approximate="tanh"))


class Products:
    """Products of 16-bit matrices on GPUs, each kind by an algorithm chosen for it.

    Args:
        mode: one of `MODES`, or None for what the environment says at the first product.
        plans: GPU → what proposes algorithms there, or None where nothing does.
        clock: see `timing.Clock`.
        apart: surroundings of the timing.
        capturing: whether a CUDA graph is being captured, when nothing can be timed.
    """

    def __init__(
        self,
        mode: str | None = None,
        plans: Callable[[int], Plans | None] | None = None,
        clock: timing.Clock = timing.device_clock,
        apart: Callable = timing.apart,
        capturing: Callable[[], bool] = torch.cuda.is_current_stream_capturing,
    ):
        self._mode, self._clock, self._apart, self._capturing = mode, clock, apart, capturing
        self._plans = _library_plans if plans is None else plans
        self._devices: dict[int, Plans | None] = {}
        self._lock = threading.Lock()
        self._runs: dict[Key, Run] = {}
        self.chosen: dict[Key, str] = {}
        """What was chosen: `torch`, or `#` with the number of the library's proposal."""

    def __call__(self, product: Product) -> None:
        """Do it: see `operations.linear_into`, and for one with scales `scaled_linear_into`."""
        self._run_of(product, key_of(product))(product)

    def is_one_launch(self, product: Product) -> bool:
        """Whether a product of e4m3 is the library's, with all that follows it; computes nothing."""
        key = key_of(product)
        self._run_of(product, key)
        return key is not None and self.chosen.get(key, "torch") != "torch"

    def _run_of(self, product: Product, key: Key | None) -> Run:
        run = by_torch if key is None else self._runs.get(key)
        if run is None:
            assert key is not None
            # A capture has its work run before, so that this is what nobody has prepared: as torch would.
            run = by_torch if self._capturing() else self._choose(product, key)
        return run

    def _choose(self, product: Product, key: Key) -> Run:
        with self._lock:
            if key not in self._runs:
                self._mode = self._mode or mode_of_environment()
                chosen: tuple[str, Run] | None = None
                if self._mode != "torch":
                    with self._apart(product.out.device):
                        chosen = self._proposal(product, key)
                self.chosen[key], self._runs[key] = chosen or ("torch", by_torch)
                _LOG.debug("products: %s for %s", self.chosen[key], key)
            return self._runs[key]

    def _proposal(self, product: Product, key: Key) -> tuple[str, Run] | None:
        """The one to take, or none."""
        try:
            plans = self._of_device(key.device)
            plan = None if plans is None else plans(key, product)
        except LibraryError as error:
            _LOG.warning("products: torch's own for %s, as cuBLASLt fails: %s", _words(key), error)
            return None
        if plan is None:
            return None
        if not plan.candidates:
            _LOG.info("products: torch's own for %s, as cuBLASLt proposes nothing", _words(key))
            return None
        named: list[tuple[str, Run]] = [
            (f"#{number}", partial(plan.run, number)) for number in range(len(plan.candidates))
        ]
        named.append(("torch", by_torch))
        products = [] if self._mode == "first" else scratch_products(product)
        if not products:
            return named[0]
        best = fastest([run for _, run in named], products, self._clock)
        return None if best is None else named[best]

    def _of_device(self, device: int) -> Plans | None:
        if device not in self._devices:
            self._devices[device] = None  # also if it fails: said once
            self._devices[device] = self._plans(device)
        return self._devices[device]


def _words(key: Key) -> str:
    within = [word for word, there in (("bias", key.bias), ("GELU", key.gelu), ("a sum", key.add)) if there]
    kind = "" if key.inputs is None else " in e4m3"
    return f"{key.m} x {key.n} x {key.k}{kind}" + (f" with {' and '.join(within)}" if within else "")


@cache
def _library_plans(device: int) -> Plans | None:
    """cuBLASLt on a GPU, with one handle and one workspace for all."""
    functions = find_library()
    if functions is None:
        _LOG.warning("products: torch's own, as cuBLASLt is not found")
        return None
    try:
        return Library(functions, torch.device("cuda", device)).plan
    except (AttributeError, torch.OutOfMemoryError) as error:
        raise LibraryError(str(error)) from error

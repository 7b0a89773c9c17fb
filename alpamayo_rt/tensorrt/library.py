# SPDX-License-Identifier: Apache-2.0
"""Opens TensorRT's Python API: the full library, or TensorRT for RTX, which builds without a GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from alpamayo_rt.errors import EngineError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
_EXTRA = "pip install 'alpamayo-rt[tensorrt]'"
_RTX_LIBRARIES = ("libcudart.so.", "libtensorrt_rtx.so.", "libtensorrt_onnxparser_rtx.so.")


class Library(NamedTuple):
    """An opened TensorRT.

    Attributes:
        api: the Python module; both libraries have the same classes.
        backend: tensorrt or tensorrt-rtx.
        version: of the library.
        logger: passed to every object, keeps what was said.
    """

    api: Any
    backend: str
    version: str
    logger: Any

    def complaints(self) -> list[str]:
        """Errors and warnings since the last call, errors first."""
        lines = sorted(self.logger.lines, key=lambda line: line[0])
        self.logger.lines.clear()
        return [text for _, text in lines]


@functools.cache
def open_library(backend: str) -> Library:
    """Open TensorRT.

    Args:
        backend: tensorrt or tensorrt-rtx.

    Raises:
        EngineError: it is not installed or cannot be opened here.
    """
    api = _open_rtx() if backend == TENSORRT_RTX else _open_full()
    return Library(api, backend, str(api.__version__), _logger(api))


def installed_backend() -> str:
    """The backend to use when none is named: full TensorRT where it is installed."""
    return TENSORRT if importlib.util.find_spec("tensorrt") is not None else TENSORRT_RTX


def installed_version(backend: str) -> str | None:
    """The version of a TensorRT, or None where it is not installed."""
    try:
        return open_library(backend).version
    except EngineError:
        return None


def _open_full() -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(
            f"tensorrt: not installed here ({error}), expected NVIDIA's TensorRT with its Python package; "
            f"TensorRT for RTX builds without it: --backend {TENSORRT_RTX}"
        ) from None


def _open_rtx() -> Any:
    try:
        if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
            return importlib.import_module("tensorrt_rtx")
        _load_rtx_libraries()
        return importlib.import_module("tensorrt_rtx_bindings")
    except (ImportError, OSError) as error:
        raise EngineError(f"tensorrt-rtx: not installed here ({error}), expected it from {_EXTRA}") from None


def _load_rtx_libraries() -> None:
    """Make the libraries of the execution provider's package known to the bindings, which bring none."""
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if spec is None or spec.origin is None:
        return  # the bindings then look where the system has them
    folder = Path(spec.origin).parent
    for name in _RTX_LIBRARIES:
        found = sorted(folder.glob(name + "*"), key=lambda path: -len(path.name))
        if not found:
            raise OSError(f"{folder}: {name}* is missing")
        ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)


def _logger(api: Any) -> Any:
    class Logger(api.ILogger):
        """Keeps errors and warnings; what TensorRT says beyond them is of no use to a caller."""

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[int, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= api.ILogger.Severity.WARNING:
                self.lines.append((int(severity), message))

    return Logger()

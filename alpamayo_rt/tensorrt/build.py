# SPDX-License-Identifier: Apache-2.0
"""One ONNX file becomes one engine file."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from alpamayo_rt.atomic import replacing, write_atomically
from alpamayo_rt.errors import EngineError
from alpamayo_rt.tensorrt.library import TENSORRT_RTX, Library
from alpamayo_rt.tensorrt.profiles import Profile, shape_range

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "BOOL": "bool",
}
"""TensorRT's names of the element types that a binding may have, and ours."""


_TARGET_TYPES = {"fp8_e4m3": "FP8", "b16": "BF16"}
"""Element types that not every target has: the compiler's names and those of the API."""


@dataclass(frozen=True)
class Limits:
    """How a build may go about it.

    Attributes:
        workspace_mib: scratch memory of the engine at most; None leaves it to TensorRT.
        timing_cache: a file that full TensorRT reads and extends; TensorRT for RTX times nothing.
    """

    workspace_mib: int | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Connections:
    """How a built network is connected.

    Attributes:
        inputs: as TensorRT names them: name, dtype, shape (−1 where it varies).
        outputs: likewise.
        profiles: one mapping a profile, input name → [smallest, usual, largest shape].
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    profiles: list[dict[str, list[list[int]]]]


@dataclass(frozen=True)
class _Parsed:
    """A network and what has to live as long as it does: the parser owns its weights."""

    builder: Any
    network: Any
    parser: Any


def build_engine(
    library: Library,
    onnx: Path,
    target: str,
    profiles: Sequence[Profile],
    out: Path,
    limits: Limits,
    progress: Callable[[str], None],
) -> Connections:
    """Build one part and write its engine; the file is whole or not there.

    Args:
        library: an opened TensorRT.
        onnx: the part.
        target: the GPU; see `targets.check_target`.
        profiles: ranges of the named dimensions.
        out: where the engine goes.
        limits: workspace and timing cache.
        progress: called with one line a phase.

    Raises:
        EngineError: the parser refuses a node, or the build fails; names the node where TensorRT does.
        InputError: a dimension has no range.
    """
    library.complaints()
    parsed = _parse(library, onnx)
    config = _configure(library, parsed.builder, target, limits)
    shapes = [_add_profile(library, parsed, config, profile, onnx) for profile in profiles]
    monitor = _monitor(library, progress)
    config.progress_monitor = monitor
    with replacing(out) as beside, beside.open("wb") as file:
        done = _in_background(lambda: _serialize(library, parsed, config, file), monitor)
        if not done:
            raise EngineError(f"{onnx}: TensorRT cannot build it: {_refusal(library, parsed.network)}")
    if limits.timing_cache is not None and library.backend != TENSORRT_RTX:
        write_atomically(limits.timing_cache, bytes(config.get_timing_cache().serialize()))
    return _connections(parsed.network, shapes)


def _parse(library: Library, onnx: Path) -> _Parsed:
    builder = library.api.Builder(library.logger)
    if builder is None:
        raise EngineError(f"{library.backend}: no builder ({_reason(library)})")
    flags = library.api.NetworkDefinitionCreationFlag
    # Where there is no such flag every network is strongly typed.
    strongly = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(strongly)
    parser = library.api.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(onnx)):
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(f"{onnx}: {errors[0] if errors else _reason(library)}")
    return _Parsed(builder, network, parser)


def _parser_error(error: Any) -> str:
    node, operator = error.node_name(), error.node_operator()
    where = f"node {node or error.node()} ({operator})" if operator else "the file"
    return f"TensorRT's parser refuses {where}: {error.desc()}"


def _configure(library: Library, builder: Any, target: str, limits: Limits) -> Any:
    config = builder.create_builder_config()
    if limits.workspace_mib is not None:
        config.set_memory_pool_limit(library.api.MemoryPoolType.WORKSPACE, limits.workspace_mib << 20)
    if library.backend == TENSORRT_RTX:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(library.api.ComputeCapability, target.upper()), 0)
    elif limits.timing_cache is not None:
        known = limits.timing_cache.read_bytes() if limits.timing_cache.is_file() else b""
        # False: a cache that another GPU or version wrote is refused, and an empty one begun.
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    return config


def _add_profile(
    library: Library, parsed: _Parsed, config: Any, ranges: Profile, onnx: Path
) -> dict[str, list[list[int]]]:
    """Shapes of every input from the names of its dimensions, which TensorRT has from the ONNX file."""
    profile = parsed.builder.create_optimization_profile()
    shapes = {}
    for i in range(parsed.network.num_inputs):
        tensor = parsed.network.get_input(i)
        named = [
            size if size != -1 else tensor.get_dimension_name(axis) or "?"
            for axis, size in enumerate(tensor.shape)
        ]
        shapes[tensor.name] = [list(shape) for shape in shape_range(named, ranges)]
        try:
            profile.set_shape(tensor.name, *map(tuple, shapes[tensor.name]))
        except (RuntimeError, ValueError, TypeError) as error:
            raise EngineError(f"{onnx}: TensorRT refuses the profile of {tensor.name} ({error})") from None
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{onnx}: TensorRT refuses the profile {shapes} ({_reason(library)})")
    return shapes


def _serialize(library: Library, parsed: _Parsed, config: Any, file: BinaryIO) -> bool:
    """Stream the engine to the file, so that it is never in memory a second time."""
    api: Any = library.api

    class Writer(api.IStreamWriter):
        """Hands every piece of the engine to the file."""

        def write(self, data: bytes) -> int:
            return file.write(data)

    if hasattr(parsed.builder, "build_serialized_network_to_stream"):
        return bool(parsed.builder.build_serialized_network_to_stream(parsed.network, config, Writer()))
    engine = parsed.builder.build_serialized_network(parsed.network, config)
    if engine is None:
        return False
    file.write(engine)
    return True


def _monitor(library: Library, progress: Callable[[str], None]) -> Any:
    api: Any = library.api

    class Monitor(api.IProgressMonitor):
        """Says each phase once, and ends the build when it is told to."""

        def __init__(self) -> None:
            super().__init__()
            self.said: set[str] = set()
            self.cancelled = False

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if name not in self.said:
                self.said.add(name)
                progress(f"{name} ({steps} steps)" if steps > 1 else name)

        def step_complete(self, name: str, step: int) -> bool:
            return not self.cancelled

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()


def _in_background(build: Callable[[], bool], monitor: Any) -> bool:
    """Run a build so that Ctrl-C and SIGTERM are heard: TensorRT returns at its next step, then they go on."""
    outcome: list[bool | BaseException] = []

    def work() -> None:
        try:
            outcome.append(build())
        except BaseException as error:  # it belongs to the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    with _cancelling(monitor, thread):
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


@contextlib.contextmanager
def _cancelling(monitor: Any, thread: threading.Thread) -> Iterator[None]:
    try:
        yield
    except BaseException:
        monitor.cancelled = True
        thread.join()
        raise


def _refusal(library: Library, network: Any) -> str:
    """Why a build failed; where the target lacks an element type, with the first node that makes one."""
    reason = _reason(library)
    named = re.search(r"HW-specific datatypes: (\w+)", reason)
    if named is None or named[1] not in _TARGET_TYPES:
        return reason
    wanted = getattr(library.api.DataType, _TARGET_TYPES[named[1]])
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if any(layer.get_output(o).dtype == wanted for o in range(layer.num_outputs)):
            return f"node {layer.name} needs {named[1]}, which the target has not ({reason})"
    return reason


def _reason(library: Library) -> str:
    complaints = library.complaints()
    return complaints[0] if complaints else "it gives no reason"


def _connections(network: Any, profiles: list[dict[str, list[list[int]]]]) -> Connections:
    def describe(tensor: Any) -> dict[str, Any]:
        return {"name": tensor.name, "dtype": DTYPES[tensor.dtype.name], "shape": list(tensor.shape)}

    return Connections(
        [describe(network.get_input(i)) for i in range(network.num_inputs)],
        [describe(network.get_output(i)) for i in range(network.num_outputs)],
        profiles,
    )

# SPDX-License-Identifier: Apache-2.0
"""A module and its bindings become an ONNX model in memory, whose weights are still the module's tensors."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from alpamayo_rt.engine.bindings import OPSET, Bindings
from alpamayo_rt.engine.session import Binding
from alpamayo_rt.errors import EngineError

if TYPE_CHECKING:
    import onnx_ir as ir


def require_exporter() -> None:
    """Refuse to start without the packages that write ONNX.

    Raises:
        EngineError: one line with the command that installs them.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise EngineError(
            f"export: {' and '.join(missing)} not installed, run: pip install 'alpamayo-rt[export]'"
        )


def trace(module: nn.Module, bindings: Bindings) -> ir.Model:
    """Trace a module once, with every named size of its bindings left open.

    Args:
        module: its forward takes the inputs in their order.
        bindings: names, types and shapes.

    Returns:
        A model whose inputs and outputs have the names and shapes of `bindings`.
    """
    arguments = tuple(_example(binding) for binding in bindings.inputs)
    shapes = [
        {i: torch.export.Dim.DYNAMIC for i, size in enumerate(b.shape) if isinstance(size, str)}
        for b in bindings.inputs
    ]
    with _quiet(), torch.no_grad(), _RowsOnly():
        program = torch.export.export(
            _Positional(module).eval(), arguments, dynamic_shapes=(tuple(shapes),), strict=False
        )
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[b.name for b in bindings.inputs],
            output_names=[b.name for b in bindings.outputs],
            verbose=False,
        )
    assert made is not None
    _name_sizes(made.model, bindings)
    _strip(made.model)
    return made.model


class _Positional(nn.Module):
    """Hands its arguments on; the tracer wants one signature for all parts."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.part = module

    def forward(self, *inputs: torch.Tensor) -> object:
        return self.part(*inputs)


class _RowsOnly(TorchFunctionMode):
    """Gives every linear layer a matrix, so that its weight enters the graph as it is, not transposed."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.linear and args[0].ndim > 2:
            return func(args[0].flatten(0, -2), *args[1:]).unflatten(0, args[0].shape[:-1])
        return func(*args, **(kwargs or {}))


def _example(binding: Binding) -> torch.Tensor:
    """Zeros of a shape in which sizes with different names differ and sums add up."""
    sizes = {name: 8 + 4 * i for i, name in enumerate("BINPRSTn")}

    def size(s: int | str) -> int:
        return s if isinstance(s, int) else sum(sizes.get(t) or int(t) for t in s.split(" + "))

    return torch.zeros([size(s) for s in binding.shape], dtype=binding.dtype)


def _name_sizes(model: ir.Model, bindings: Bindings) -> None:
    """Replace the tracer's names of sizes by ours, everywhere."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value, binding in zip(model.graph.inputs, bindings.inputs, strict=True):
        assert value.shape is not None
        for theirs, ours in zip(value.shape, binding.shape, strict=True):
            symbolic = isinstance(theirs, ir.SymbolicDim)
            if symbolic != isinstance(ours, str):
                raise EngineError(
                    f"export: {binding} was traced as {value.shape}, a size is not what it should be"
                )
            if symbolic and re.fullmatch(r"\w+", str(ours)):
                names[str(theirs)] = str(ours)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_renamed(size, names) for size in value.shape])
    for values, wanted in ((model.graph.inputs, bindings.inputs), (model.graph.outputs, bindings.outputs)):
        for value, binding in zip(values, wanted, strict=True):
            value.shape = ir.Shape(binding.shape)


def _strip(model: ir.Model) -> None:
    """Leave weights with the names of `Network`, and nothing of where and how the graph was traced."""
    for weight in list(model.graph.initializers.values()):
        weight.name = (weight.name or "").removeprefix("part.")
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _renamed(size: object, names: dict[str, str]) -> int | str | None:
    import onnx_ir as ir

    if isinstance(size, int):
        return size
    text = size.value if isinstance(size, ir.SymbolicDim) else None
    return None if text is None else re.sub(r"\b\w+\b", lambda m: names.get(m[0], m[0]), str(text))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tracer speaks of packages that are not installed and of its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

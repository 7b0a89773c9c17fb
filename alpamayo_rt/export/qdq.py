# SPDX-License-Identifier: Apache-2.0
"""FP8 as QuantizeLinear and DequantizeLinear around the linear layers that a calibration has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from alpamayo_rt.errors import EngineError
from alpamayo_rt.quantization.calibration import Calibration

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = 448.0
"""Of e4m3."""
_ROWS = 4096
_SMALLEST_SCALE = 2.0**-14
"""The smallest normal float16: a layer that read only zeros still gets a scale that can be divided by."""


def quantize(model: ir.Model, part: str, calibration: Calibration) -> int:
    """Put Q/DQ pairs before both factors of the measured products, in place.

    Activations have one static scale a layer, weights one an output channel.

    Args:
        model: with `Gemm` for linear layers and their weights under the names of `Network`.
        part: vision, language or expert.
        calibration: the largest magnitudes that the layers read.

    Returns:
        How many products are quantized.

    Raises:
        EngineError: the calibration knows none of them.
    """
    graph = model.graph
    count = 0
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "Gemm" else None
        if weight is None or weight.const_value is None or not (weight.name or "").endswith(".weight"):
            continue
        amax = calibration.activation_amax.get((weight.name or "").removesuffix(".weight"))
        if amax is not None:
            _quantize_product(graph, node, weight, amax)
            count += 1
    if count == 0:
        raise EngineError(
            f"calibration: measured no linear layer of the {part}, calibrate it or leave the part out"
        )
    return count


def _quantize_product(graph: ir.Graph, node: ir.Node, weight: ir.Value, amax: float) -> None:
    import onnx_ir as ir

    x = node.inputs[0]
    assert x is not None
    assert weight.const_value is not None
    name = (weight.name or "").removesuffix(".weight")
    rounded, scales = _round_rows(weight.const_value.numpy())
    scale = torch.tensor(max(amax / LARGEST, _SMALLEST_SCALE)).to(scales.dtype)

    def constant(suffix: str, value: torch.Tensor) -> ir.Value:
        made = ir.Value(name=f"{name}.{suffix}")
        made.const_value = ir.tensor(value, name=made.name)
        made.shape, made.dtype = ir.Shape(value.shape), made.const_value.dtype
        graph.register_initializer(made)
        return made

    def operator(op: str, inputs: list[ir.Value], like: ir.Value, suffix: str, **attributes: int) -> ir.Value:
        made = ir.node(op, inputs, attributes or None, name=f"{name}.{suffix}")
        out = made.outputs[0]
        out.name, out.shape = f"{name}.{suffix}", like.shape
        out.type = ir.TensorType(ir.DataType.FLOAT8E4M3FN) if op == "QuantizeLinear" else like.type
        graph.insert_before(node, made)
        return out

    activation_scale = constant("input_scale", scale)
    zero = constant("input_zero", torch.zeros((), dtype=torch.float8_e4m3fn))
    quantized = operator("QuantizeLinear", [x, activation_scale, zero], x, "input_quantized")
    node.replace_input_with(0, operator("DequantizeLinear", [quantized, activation_scale, zero], x, "input"))
    factor = constant("weight_fp8", rounded)
    zeros = constant("weight_zero", torch.zeros(len(scales), dtype=torch.float8_e4m3fn))
    restored = operator(
        "DequantizeLinear", [factor, constant("weight_scale", scales), zeros], weight, "weight_restored", axis=0
    )
    node.replace_input_with(1, restored)
    if not weight.uses():
        del graph.initializers[weight.name or ""]


def _round_rows(weight: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) → e4m3 values and (out,) scales in the weight's type."""
    rounded, scales = [], []
    # A few rows at a time: the head's float32 copy alone would be gigabytes.
    for start in range(0, len(weight), _ROWS):
        rows = torch.tensor(weight[start : start + _ROWS])
        scale = (rows.float().abs().amax(1) / LARGEST).clamp(min=_SMALLEST_SCALE).to(rows.dtype)
        values = (rows.float() / scale.float()[:, None]).clamp(-LARGEST, LARGEST)
        rounded.append(values.to(torch.float8_e4m3fn))
        scales.append(scale)
    return torch.cat(rounded), torch.cat(scales)

# SPDX-License-Identifier: Apache-2.0
"""A small ONNX file, written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y (B, 2) = x (B, 3) · w, n (B,) = −m (B,) as whole numbers."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, (3, 2), [1, 2, 3, 4, 5, 6])
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="/product"),
            helper.make_node("Neg", ["m"], ["n"], name="/minus"),
        ],
        "small",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ("B", 3)),
            helper.make_tensor_value_info("m", TensorProto.INT64, ("B",)),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ("B", 2)),
            helper.make_tensor_value_info("n", TensorProto.INT64, ("B",)),
        ],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"part": "expert", "contract": "shared", "precision": "fp32"})
    path = tmp_path_factory.mktemp("small") / "model.onnx"
    onnx.save(model, str(path))
    return path

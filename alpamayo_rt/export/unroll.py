# SPDX-License-Identifier: Apache-2.0
"""All Euler steps in one graph: the graph of one step, repeated, with its weights kept once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from alpamayo_rt.action.flow_matching import flow_times
from alpamayo_rt.engine.bindings import Bindings

if TYPE_CHECKING:
    import onnx_ir as ir

_STEPPED = ("noisy_action", "timestep", "dt")


def unroll(model: ir.Model, bindings: Bindings, steps: int) -> None:
    """Turn a `shared` expert into a `shared-loop` one, in place.

    Repeating the nodes is linear in the steps; tracing all steps would not be. What does not depend on the
    state or the time (positions, masks) stays once.

    Args:
        model: with the inputs and outputs of the contract shared.
        bindings: of shared-loop.
        steps: Euler steps from t = 0 to t = 1.
    """
    import onnx_ir as ir

    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    next_action = next(value for value in graph.outputs if value.name == "next_action")
    repeated = _depending(graph, [inputs[name] for name in _STEPPED])
    times = flow_times(steps, torch.device("cpu"))
    state: ir.Value = inputs["noisy_action"]
    for i in range(steps):
        replaced: dict[ir.Value, ir.Value] = {inputs["noisy_action"]: state}
        for name, number in (("timestep", times[i]), ("dt", times[i + 1] - times[i])):
            value = ir.Value(name=f"{name}.step{i}", type=inputs[name].type, shape=inputs[name].shape)
            value.const_value = ir.tensor(number.view(1).numpy(), name=value.name)
            graph.register_initializer(value)
            replaced[inputs[name]] = value
        for node in repeated:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [None if v is None else replaced.get(v, v) for v in node.inputs],
                list(node.attributes.values()),
                overload=node.overload,
                num_outputs=len(node.outputs),
                name=f"{node.name}.step{i}",
            )
            for theirs, ours in zip(node.outputs, copy.outputs, strict=True):
                ours.name, ours.shape, ours.type = f"{theirs.name}.step{i}", theirs.shape, theirs.type
                replaced[theirs] = ours
            graph.append(copy)
        state = replaced[next_action]
    state.name = bindings.outputs[0].name
    graph.outputs[:] = [state]
    graph.remove(repeated, safe=True)
    for name in ("timestep", "dt"):
        graph.inputs.remove(inputs[name])


def _depending(graph: ir.Graph, sources: list[ir.Value]) -> list[ir.Node]:
    """The nodes that some of the sources reach, in the graph's order."""
    reached = set(sources)
    found = []
    for node in graph:
        if any(value in reached for value in node.inputs if value is not None):
            found.append(node)
            reached.update(node.outputs)
    return found

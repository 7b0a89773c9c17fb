# SPDX-License-Identifier: Apache-2.0
"""How much memory weights take, in each precision that a checkpoint can run in."""

from __future__ import annotations

from torch import nn

from alpamayo_rt.precisions import PRECISIONS
from alpamayo_rt.quantization.linear import QuantizedLinear
from alpamayo_rt.quantization.parts import NARROW
from alpamayo_rt.quantization.plan import Plan

_SURROUNDING = PRECISIONS["bf16"].itemsize


def weights_in(network: nn.Module, tensor: str, numel: int) -> int:
    """How many weights a stored tensor stands for: scales none, packed ones more than they are.

    Args:
        network: without data, narrowed where the checkpoint is.
        tensor: its name in the network.
        numel: its number of values.
    """
    owner, _, leaf = tensor.rpartition(".")
    module = network.get_submodule(owner)
    if not isinstance(module, QuantizedLinear) or leaf == "bias":
        return numel
    return module.in_features * module.out_features if leaf == "weight" else 0


def weight_bytes(
    own: Plan | None, network: nn.Module, parameters: int, parts: tuple[str, ...] = ("language",)
) -> dict[str, tuple[int, int]]:
    """Bytes of the weights, and the size of a value in all else.

    Args:
        own: the plan of a narrowed checkpoint.
        network: without data, narrowed where the checkpoint is.
        parameters: number of weights of the model.
        parts: that a checkpoint in a floating type has narrowed in FP8 and INT4.

    Returns:
        Precision, with its parts (`parts.label_of`) → (bytes, bytes a value). A narrowed checkpoint has its own
        precision only.
    """
    if own is not None:
        return {own.label: (_around(network, parameters) + _inside(network), _SURROUNDING)}
    sizes = {name: (parameters * dtype.itemsize, dtype.itemsize) for name, dtype in PRECISIONS.items()}
    for precision in NARROW:
        plan, extra = Plan(precision, parts), 0
        for name in plan.layers(network):
            linear = network.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            extra += _bytes(plan.empty(linear)) - linear.weight.numel() * _SURROUNDING
        sizes[plan.label] = (parameters * _SURROUNDING + extra, _SURROUNDING)
    return sizes


def _bytes(layer: QuantizedLinear) -> int:
    tensors = (getattr(layer, leaf) for leaf in layer.exact)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def _layers(network: nn.Module) -> list[QuantizedLinear]:
    return [module for module in network.modules() if isinstance(module, QuantizedLinear)]


def _inside(network: nn.Module) -> int:
    return sum(_bytes(layer) for layer in _layers(network))


def _around(network: nn.Module, parameters: int) -> int:
    narrow = sum(layer.in_features * layer.out_features for layer in _layers(network))
    return (parameters - narrow) * _SURROUNDING

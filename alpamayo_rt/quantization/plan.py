# SPDX-License-Identifier: Apache-2.0
"""Which layers of a network are narrowed, and how; kept beside the weights in `quantization.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from alpamayo_rt.config import read_json
from alpamayo_rt.errors import InputError, ModelError
from alpamayo_rt.quantization.formats import GROUP
from alpamayo_rt.quantization.linear import Fp8Linear, Int4Linear, QuantizedLinear
from alpamayo_rt.quantization.parts import NARROW, check_parts, label_of, linear_layers, parts_of

FILE = "quantization.json"
_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """How a network is narrowed.

    Attributes:
        precision: fp8 or int4.
        parts: of the network, in their usual order.
        amax: linear layer → the largest input of a calibration; None: scales are made for each token.
        static: whether layers have fixed input scales (of `amax`, or stored in a checkpoint).
        source_hash: of the checkpoint that was narrowed, where it has been.
    """

    precision: str
    parts: tuple[str, ...] = ("language",)
    amax: dict[str, float] | None = field(default=None, repr=False)
    static: bool = False
    source_hash: str = ""

    @property
    def label(self) -> str:
        """See `parts.label_of`."""
        return label_of(self.precision, self.parts)

    @classmethod
    def named(cls, label: str) -> Plan | None:
        """The plan of a label, with a scale a token; None for a floating type."""
        precision, parts = parts_of(label)
        return cls(precision, parts) if parts else None

    def layers(self, network: nn.Module) -> tuple[str, ...]:
        """Names of the linear layers concerned, in a network that has not been narrowed."""
        return linear_layers(network, self.precision, self.parts)

    def empty(self, linear: nn.Linear) -> QuantizedLinear:
        """A layer of the same sizes without values, on the same device; its bias is the given one's."""
        with torch.device(linear.weight.device):
            if self.precision == "int4":
                made: QuantizedLinear = Int4Linear(linear.in_features, linear.out_features)
            else:
                made = Fp8Linear(linear.in_features, linear.out_features, self.static)
        made.register_parameter("bias", linear.bias)
        return made

    def convert(self, name: str, linear: nn.Linear, weight: torch.Tensor) -> QuantizedLinear:
        """The narrowed layer.

        Args:
            name: of the layer in `Network`.
            linear: for its sizes and its bias; may be without data.
            weight: (out, in), on the device where the layer shall be.

        Raises:
            ModelError: a weight is not finite.
        """
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{name}.weight: holds a value that is not finite, {self.precision} has none")
        made = self.empty(linear)
        if isinstance(made, Fp8Linear):
            made.fill(weight, None if self.amax is None else self.amax[name])
        else:
            assert isinstance(made, Int4Linear)
            made.fill(weight)
        return made

    def to_json(self) -> str:
        """The text of `quantization.json`."""
        value = {
            "version": _VERSION,
            "precision": self.precision,
            "parts": list(self.parts),
            "activations": self._activations(),
            "group": GROUP if self.precision == "int4" else None,
            "source_hash": self.source_hash,
        }
        return json.dumps(value, indent=1) + "\n"

    def _activations(self) -> str | None:
        return None if self.precision == "int4" else "static" if self.static else "token"


def quantize(network: nn.Module, precision: str, parts: Iterable[str] = ("language",)) -> None:
    """Narrow the linear layers of a loaded network, in place.

    Args:
        network: a `Network` in a floating type.
        precision: fp8 (inputs with a scale a token) or int4.
        parts: language, vision, expert.

    Raises:
        InputError: the precision or a part is unknown.
        ModelError: a weight is not finite.
    """
    plan = Plan(precision, check_parts(parts))
    for name in plan.layers(network):
        linear = network.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        network.set_submodule(name, plan.convert(name, linear, linear.weight))


def read_plan(folder: Path) -> Plan | None:
    """How a checkpoint is narrowed; None where it is not.

    Raises:
        ModelError: `quantization.json` is something else; says which field is wrong.
    """
    path = folder / FILE
    if not path.exists():
        return None
    value = read_json(path)
    fields = {"version", "precision", "parts", "activations", "group", "source_hash"}
    if set(value) != fields:
        odd = sorted(set(value) ^ fields)
        raise ModelError(f"{path}: {odd[0]} missing or unknown, expected {', '.join(sorted(fields))}")
    precision, parts, hash_ = value["precision"], value["parts"], value["source_hash"]
    if type(value["version"]) is not int or value["version"] != _VERSION:
        raise ModelError(f"{path}: version {value['version']!r}, expected {_VERSION}")
    if precision not in NARROW:
        raise ModelError(f"{path}: precision {precision!r}, expected {' or '.join(NARROW)}")
    known = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
    try:
        chosen = check_parts(parts if known else [])
    except InputError:
        raise ModelError(f"{path}: parts {parts!r}, expected some of language, vision, expert") from None
    if not isinstance(hash_, str):
        raise ModelError(f"{path}: source_hash {hash_!r}, expected the hash of the narrowed checkpoint")
    activations, group = value["activations"], value["group"]
    expected = (None,) if precision == "int4" else ("token", "static")
    if activations not in expected:
        raise ModelError(f"{path}: activations {activations!r}, expected {' or '.join(map(str, expected))}")
    if group != (GROUP if precision == "int4" else None):
        raise ModelError(f"{path}: group {group!r}, expected {GROUP} for int4 and null for fp8")
    return Plan(precision, chosen, None, activations == "static", hash_)

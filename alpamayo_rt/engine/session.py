# SPDX-License-Identifier: Apache-2.0
"""What an engine file is to the rest of the code: named inputs and outputs, and a way to run it.

An ONNX file behind ONNX Runtime and a TensorRT engine are both a `Session`; whoever feeds it does not ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from alpamayo_rt.errors import EngineError

Shape = tuple[int | str, ...]
"""A whole number is fixed; a name ("B", "S", "S + 64") is decided by each call."""


@dataclass(frozen=True)
class Binding:
    """One input or output.

    Attributes:
        name: what files and runners call it.
        dtype: element type.
        shape: numbers and names.
    """

    name: str
    dtype: torch.dtype
    shape: Shape

    def __str__(self) -> str:
        return f"{self.name} {str(self.dtype).removeprefix('torch.')} ({', '.join(map(str, self.shape))})"


class Session(Protocol):
    """A loaded engine file.

    Attributes:
        path: the file, for messages.
        inputs: in the file's order.
        outputs: in the file's order.
        metadata: what the exporter wrote: part, contract, precision, model_hash, model_name, family, opset.
        device: where tensors have to be.
    """

    path: Path
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    metadata: Mapping[str, str]
    device: torch.device

    def run(
        self, feeds: Mapping[str, torch.Tensor], out: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Run once.

        Args:
            feeds: every input, contiguous, on the session's device, in its binding's type.
            out: buffers for outputs whose shapes the caller knows; what is not in it is allocated.

        Returns:
            Every output by name.

        Raises:
            EngineError: a tensor does not fit its binding, or the call exceeds what the file was built for.
        """
        ...


def check_bindings(session: Session, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...]) -> None:
    """Compare a file's inputs and outputs with those of a contract.

    Names, types, ranks and fixed sizes have to agree, in any order; where the contract has a name, the file may
    have any name or number (an engine may have been built for one size).

    Raises:
        EngineError: one line with the first difference.
    """
    for kind, theirs, ours in (("input", session.inputs, inputs), ("output", session.outputs, outputs)):
        found = {binding.name: binding for binding in theirs}
        wanted = {binding.name: binding for binding in ours}
        for name in sorted(wanted.keys() | found.keys()):
            if name not in found:
                raise EngineError(f"{session.path}: {kind} {name} is missing, expected {wanted[name]}")
            if name not in wanted:
                raise EngineError(
                    f"{session.path}: {kind} {found[name]} is not part of the contract, "
                    f"expected {', '.join(sorted(wanted))}"
                )
            if not _fits(found[name], wanted[name]):
                raise EngineError(f"{session.path}: {kind} {found[name]}, expected {wanted[name]}")


def output_type(session: Session, name: str) -> torch.dtype:
    """The element type of an output, by which a contract in several precisions is told.

    Raises:
        EngineError: there is no such output.
    """
    for binding in session.outputs:
        if binding.name == name:
            return binding.dtype
    raise EngineError(
        f"{session.path}: output {name} is missing, it has {', '.join(b.name for b in session.outputs)}"
    )


def _fits(found: Binding, wanted: Binding) -> bool:
    if found.dtype != wanted.dtype or len(found.shape) != len(wanted.shape):
        return False
    pairs = zip(found.shape, wanted.shape, strict=True)
    return all(isinstance(ours, str) or theirs == ours for theirs, ours in pairs)

# SPDX-License-Identifier: Apache-2.0
"""Which parts of a network can be narrowed, and which of their linear layers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from alpamayo_rt.errors import InputError

PARTS = ("language", "vision", "expert")
NARROW = ("fp8", "int4")
"""Precisions in which linear layers are narrowed and all else stays a floating type."""
MAY_NARROW = ("auto", *NARROW)
"""Those that a user may name with parts; auto is what a checkpoint was narrowed to, if it was."""
_USUAL = "language"
# The expert's input and output projections stay: nothing to save, and all of the action goes through them.
_INSIDE = {"language": "language.", "vision": "vision.", "expert": "expert.decoder."}


def check_parts(parts: Iterable[str]) -> tuple[str, ...]:
    """The parts in their usual order.

    Raises:
        InputError: one is unknown, or there is none.
    """
    chosen = set(parts)
    unknown = sorted(chosen - set(PARTS))
    if unknown or not chosen:
        raise InputError(f"parts: {', '.join(unknown) or 'none'}, expected some of {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in chosen)


def label_of(precision: str, parts: Iterable[str]) -> str:
    """What a narrow precision is called by the parts that it narrows.

    `fp8` for the language model alone, as it is meant most often; `fp8+vision` with the vision tower, and
    `fp8:vision` for that alone.
    """
    inside = check_parts(parts)
    others = [part for part in inside if part != _USUAL]
    return precision + "".join(
        f"{'+' if _USUAL in inside or i else ':'}{part}" for i, part in enumerate(others)
    )


def parts_of(label: str) -> tuple[str, tuple[str, ...]]:
    """Precision and parts of what `label_of` gave; a floating type, and what is no label, has no parts."""
    precision, mark, others = label.partition(":" if ":" in label else "+")
    named = ([] if mark == ":" else [_USUAL]) + (others.split("+") if mark else [])
    if precision not in NARROW or not set(named) <= set(PARTS):
        return label, ()
    return precision, check_parts(named)


def linear_layers(network: nn.Module, precision: str, parts: Iterable[str]) -> tuple[str, ...]:
    """Names of the linear layers of `parts` that a precision narrows.

    The language model's head is narrowed in fp8 only: four bits there move the choice of tokens most, and it
    is a small share of the memory. The expert's input and output projections never are.

    Raises:
        InputError: the precision is not fp8 or int4, or a part is unknown.
    """
    if precision not in NARROW:
        raise InputError(f"precision: {precision!r}, expected {' or '.join(NARROW)}")
    inside = tuple(_INSIDE[part] for part in check_parts(parts))
    return tuple(
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(inside)
        and not (precision == "int4" and name == "language.lm_head")
    )

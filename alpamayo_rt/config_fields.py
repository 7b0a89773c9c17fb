# SPDX-License-Identifier: Apache-2.0
"""A JSON object of a checkpoint's configuration, read field by field with errors that name the place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from alpamayo_rt.errors import ModelError


def _is_number(value: object) -> TypeGuard[int | float]:
    # Comparing, unlike converting, works for integers of any size; it is false for NaN.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


class Fields:
    """A JSON object with the name of its place, so that errors can say where a value stands.

    Raises:
        ModelError: (from every method) the value is missing or of another kind.
    """

    def __init__(self, raw: object, where: str):
        if not isinstance(raw, Mapping):
            raise ModelError(f"{where}: {raw!r}, expected an object")
        self.raw, self.where = raw, where

    def sub(self, name: str) -> Fields:
        """The object in a field."""
        return Fields(self.raw.get(name), f"{self.where}.{name}")

    def _get(self, name: str, default: Any) -> Any:
        value = self.raw.get(name)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.where}.{name}: missing")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A number from 0 on."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{self.where}.{name}: {value!r}, expected a whole number")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        """A number from 1 on."""
        value = self.whole(name, default)
        if value == 0:
            raise ModelError(f"{self.where}.{name}: 0, expected a whole number from 1 on")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Any finite number."""
        value = self._get(name, default)
        if not _is_number(value):
            raise ModelError(f"{self.where}.{name}: {value!r}, expected a number")
        return float(value)

    def numbers(self, name: str, n: int, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """As many finite numbers as `n`."""
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or len(value) != n or not all(map(_is_number, value)):
            raise ModelError(f"{self.where}.{name}: {value!r}, expected {n} numbers")
        return tuple(float(v) for v in value)

    def wholes(self, name: str) -> tuple[int, ...]:
        """Numbers from 0 on."""
        value = self._get(name, None)
        if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
            raise ModelError(f"{self.where}.{name}: {value!r}, expected a list of whole numbers")
        return tuple(value)

    def expect(self, name: str, wanted: object, default: object = None) -> None:
        """Refuse any other value than the only one that is supported."""
        value = self.raw.get(name, default)
        if value != wanted:
            raise ModelError(f"{self.where}.{name}: {value!r} is not supported, expected {wanted!r}")

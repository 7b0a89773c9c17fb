# SPDX-License-Identifier: Apache-2.0
"""The kernels' sources, put together and compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alpamayo_rt.kernels.hopper.compiler import compile_source
from alpamayo_rt.kernels.hopper.products import product_function

_FOLDER = Path(__file__).parent


def compiled(
    name: str, products: Sequence[tuple[int, bool, bool]] = (), definitions: Sequence[str] = ()
) -> bytes:
    """Machine code of a source in this folder.

    Args:
        name: of the file.
        products: arguments of `product_function` for those that it uses from `products.cuh`.
        definitions: see `compile_source`.

    Raises:
        CompilerError: see there.
    """
    headers = {
        "parts.cuh": (_FOLDER / "parts.cuh").read_text("utf-8"),
        "products.cuh": "\n".join(["#pragma once", *(product_function(*p) for p in products)]),
    }
    return compile_source((_FOLDER / name).read_text("utf-8"), headers, definitions)

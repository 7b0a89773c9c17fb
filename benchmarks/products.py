# SPDX-License-Identifier: Apache-2.0
"""Checks and times the products of many rows at released sizes: torch's, the library's first, the chosen one.

Run on a GPU (under a minute): `python benchmarks/products.py --out benchmarks/results/NAME.json`. Each figure
is the median over replays of a CUDA graph of calls that take several weights and inputs in turn, and over
rounds in which the three take turns too. What decides at run time is `kernels/products/timing.py`, whose
choice is named in the last column.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from skinny_linear import microseconds  # which makes this run from source

from alpamayo_rt.kernels.products.choice import Products
from alpamayo_rt.kernels.products.operations import linear_into_twin
from alpamayo_rt.kernels.products.product import Product

CALLS, REPLAYS, ROUNDS = 12, 8, 3
POOL_BYTES = 256 << 20
WRONG = 1e-2
"""Relative L2 distance from float32."""
MODES = ("torch", "first", "fastest")


class Case(NamedTuple):
    """A product: rows, outputs, inputs, and what happens on its way out."""

    name: str
    m: int
    n: int
    k: int
    bias: bool = False
    gelu: bool = False
    add: bool = False


def vision(images: int) -> list[Case]:
    """A block's products over images of 720 patches."""
    m = images * 720
    return [
        Case(f"{images} images qkv", m, 3456, 1152, bias=True),
        Case(f"{images} images proj", m, 1152, 1152, add=True),
        Case(f"{images} images proj with bias", m, 1152, 1152, bias=True, add=True),
        Case(f"{images} images fc1", m, 4304, 1152, bias=True, gelu=True),
        Case(f"{images} images fc2", m, 1152, 4304, add=True),
        Case(f"{images} images fc2 with bias", m, 1152, 4304, bias=True, add=True),
    ]


def decoder(name: str, m: int, hidden: int, attended: int, joint: int, opened: int) -> list[Case]:
    """A decoder layer's products."""
    return [
        Case(f"{name} qkv", m, joint, hidden),
        Case(f"{name} o", m, hidden, attended, add=True),
        Case(f"{name} gate_up", m, 2 * opened, hidden),
        Case(f"{name} down", m, hidden, opened, add=True),
    ]


CASES = [
    *vision(16),
    *vision(4),
    Case("merger fc1", 2880, 4608, 4608, bias=True),
    Case("merger fc2", 2880, 4096, 4608, bias=True),
    *decoder("prefill", 3136, 4096, 4096, 6144, 12288),
    *decoder("expert", 384, 2048, 2048, 4096, 8256),
]
"""Those with the residual and a bias, the mergers' and the expert's are timed for comparison alone."""


def measure(case: Case, products: dict[str, Products]) -> dict[str, Any]:
    """Microseconds and errors of the three, and what was chosen."""
    how = {"dtype": torch.bfloat16, "device": "cuda"}
    copies = min(max(POOL_BYTES // (2 * case.n * case.k), 2), CALLS)
    xs = [torch.randn(case.m, case.k, **how) for _ in range(2)]
    weights = [torch.randn(case.n, case.k, **how) * case.k**-0.5 for _ in range(copies)]
    bias = torch.randn(case.n, **how) if case.bias else None
    out, start = torch.empty(case.m, case.n, **how), torch.randn(case.m, case.n, **how)
    rows = min(case.m, 512)
    expected = start[:rows].float()
    linear_into_twin(xs[0][:rows], weights[0], expected, bias, case.gelu, case.add)
    errors: dict[str, float] = {}
    taken: dict[str, list[float]] = {mode: [] for mode in MODES}
    for mode in MODES:
        out.copy_(start)
        products[mode](Product(xs[0], weights[0], out, bias, case.gelu, case.add))
        errors[mode] = float((out[:rows].float() - expected).norm() / expected.norm())
    for _ in range(ROUNDS):
        for mode in MODES:

            def run(mode: str = mode) -> None:
                for i in range(CALLS):
                    products[mode](Product(xs[i % 2], weights[i % copies], out, bias, case.gelu, case.add))

            out.zero_()
            taken[mode].append(microseconds(run, REPLAYS) / CALLS)
    us = {mode: statistics.median(times) for mode, times in taken.items()}
    return {
        **case._asdict(),
        "us": us,
        "errors": errors,
        "chosen": list(products["fastest"].chosen.values())[-1],
    }


def main() -> None:
    """Check, time, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "products.json")
    out = parser.parse_args().out
    begun = time.monotonic()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    products = {mode: Products(mode) for mode in MODES}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds")
    print(f"{'':26}{'m x n x k':>18}{'torch':>9}{'first':>9}{'chosen':>9}{'gain':>8}")
    results = []
    for case in CASES:
        result = measure(case, products)
        results.append(result)
        us = result["us"]
        print(
            f"{case.name:26}{f'{case.m}x{case.n}x{case.k}':>18}{us['torch']:9.1f}{us['first']:9.1f}"
            f"{us['fastest']:9.1f}{1 - us['fastest'] / us['torch']:8.1%}  {result['chosen']}",
            flush=True,
        )
    record = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": "python benchmarks/products.py " + " ".join(sys.argv[1:]),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "results": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - begun:.0f} s in all; {out}")
    wrong = [(r["name"], r["errors"]) for r in results if not max(r["errors"].values()) < WRONG]
    if wrong:
        sys.exit(f"not as float32 says: {wrong}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Times the kernels for Hopper at the released sizes against what serves in their place elsewhere.

Run on an H100 (under a minute): `python benchmarks/hopper.py --out benchmarks/results/NAME.json`. Each figure
is the median over replays of a CUDA graph of the layers of a model, with weights and caches of their own; the
two ways take turns. The expert's are timed between the products of its layers, whose time by themselves is
taken off, as that is where their code, their weights and the cache are cold.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from skinny_linear import microseconds  # which makes this run from source

from alpamayo_rt.kernels.attention.angles import PatchAngles
from alpamayo_rt.kernels.attention.operations import expert_attention
from alpamayo_rt.kernels.attention.patches import patch_attention
from alpamayo_rt.kernels.attention.scratch import ExpertScratch, expert_configuration
from alpamayo_rt.kernels.hopper.availability import VARIABLE
from alpamayo_rt.kernels.layers.gated import gated_linear
from alpamayo_rt.kernels.products.operations import linear_into

LAYERS, BLOCKS, REPLAYS, ROUNDS, PAUSE_S = 36, 27, 5, 5, 0.03
"""PAUSE_S between figures: at its power limit a GPU slows down, which a request alone does not meet."""
HOW: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
WAYS = ("on", "off")


def medians(runs: dict[str, Callable[[], None]], calls: int) -> dict[str, dict[str, float]]:
    """Microseconds a call of each run in each way."""
    taken: dict[tuple[str, str], list[float]] = {(name, way): [] for name in runs for way in WAYS}
    for _ in range(ROUNDS):
        for name, way in taken:
            os.environ[VARIABLE] = way
            time.sleep(PAUSE_S)
            taken[name, way].append(microseconds(runs[name], REPLAYS) / calls)
    return {name: {way: statistics.median(taken[name, way]) for way in WAYS} for name in runs}


def vision() -> dict[str, dict[str, float]]:
    """Attention among the patches of images of 320 x 576."""
    rows, columns, heads, d = 20, 36, 16, 72
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float().cuda()
    turns = (at[:, :, None] * torch.logspace(0, -4, d // 4, device="cuda")).flatten(1)
    cos, sin = turns.cos(), turns.sin()
    angles = PatchAngles.of(cos, sin)
    runs: dict[str, Callable[[], None]] = {}
    for images in (16, 4, 1):
        qkv = [torch.randn(images * rows * columns, 3 * heads * d, **HOW) for _ in range(3)]
        out = torch.empty(images * rows * columns, heads, d, **HOW)

        def run(qkv: list[torch.Tensor] = qkv, out: torch.Tensor = out) -> None:
            for i in range(BLOCKS):
                patch_attention(qkv[i % 3], cos, sin, out, angles=angles)

        runs[f"patch_attention, {images} images"] = run
    return medians(runs, BLOCKS)


def expert() -> dict[str, dict[str, float]]:
    """Six candidates of 64 waypoints over 3,120 cached tokens and 31 of a shared tail."""
    k, waypoints, heads, kv_heads, d, hidden, opened = 6, 64, 16, 8, 128, 2048, 8256
    n, prefix, room = k * waypoints, 3120, 320
    x = torch.randn(n, hidden, **HOW)
    wide = torch.randn(n, opened, **HOW)
    outs = [torch.randn(hidden, heads * d, **HOW) * 2e-4 for _ in range(LAYERS)]
    gate_ups = [torch.randn(2 * opened, hidden, **HOW) * 0.02 for _ in range(LAYERS)]
    downs = [torch.randn(hidden, opened, **HOW) * 2e-4 for _ in range(LAYERS)]
    planes = torch.randn(LAYERS, 2, kv_heads, prefix + room, d, **HOW)
    q = torch.randn(k, waypoints, heads, d, **HOW)
    mixed = torch.randn(k, waypoints, heads, d, **HOW)
    own_keys, own_values = torch.randn(2, k, waypoints, kv_heads, d, **HOW)
    length = torch.tensor(prefix, device="cuda")
    rows, lengths = torch.zeros(k, dtype=torch.int64, device="cuda"), torch.full((k,), 31, device="cuda")
    sizes = (k, waypoints, heads, kv_heads)
    scratch = ExpertScratch.allocate(*sizes, d, "cuda", expert_configuration(*sizes, half_parts=True))

    def layers(attend: bool, open_: bool) -> Callable[[], None]:
        def run() -> None:
            for i in range(LAYERS):
                if attend:
                    expert_attention(
                        q, *planes[i], length, prefix, room, rows, lengths, own_keys, own_values, d**-0.5,
                        mixed, scratch,
                    )  # fmt: skip
                linear_into(mixed.view(n, -1), outs[i], x, add=True)
                if open_:
                    gated_linear(x, gate_ups[i], wide, 1e-6)
                linear_into(wide, downs[i], x, add=True)

        return run

    runs = {"nothing": layers(False, False), "attention": layers(True, False), "gated": layers(False, True)}
    found = medians(runs, LAYERS)
    return {
        name: {way: found[run][way] - found["nothing"][way] for way in WAYS}
        for name, run in (("expert_attention", "attention"), ("gated_linear with the norm", "gated"))
    }


def main() -> None:
    """Time, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "hopper.json")
    out = parser.parse_args().out
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds")
    print(f"{'':32}{'for Hopper':>12}{'elsewhere':>12}")
    results = {**vision(), **expert()}
    for name, us in results.items():
        print(f"{name:32}{us['on']:12.1f}{us['off']:12.1f}")
    record = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": "python benchmarks/hopper.py " + " ".join(sys.argv[1:]),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "microseconds": {
            name: {"for_hopper": us["on"], "elsewhere": us["off"]} for name, us in results.items()
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

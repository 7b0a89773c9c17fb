# SPDX-License-Identifier: Apache-2.0
"""Tunes and times the linear layers of a decode step at released sizes, and one whole step of them.

On a GPU: `python benchmarks/skinny_linear.py --out benchmarks/results/NAME.json`. Candidates are compiled in
parallel first, then timed in CUDA graphs over copies of the weights that are far larger than the L2 cache, and
checked against float32. The best ones are printed as entries of `kernels/skinny/configurations.py`.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from source

import torch

from alpamayo_rt.kernels.skinny import configurations, operations
from alpamayo_rt.kernels.skinny.configurations import Configuration, rows_class
from alpamayo_rt.kernels.skinny.weights import SkinnyWeight

DEVICE = "cuda"
EPS = 1e-6
WRONG = 1e-2
"""Relative L2 distance from the float32 twin beyond which a candidate is not one."""
POOL_BYTES = 1 << 30
"""Weights that a measurement reads in turn: twenty times the L2 cache, so that hardly any come from it."""


class Layer(NamedTuple):
    """A linear layer: (outputs, inputs) weights, and which operation runs it."""

    name: str
    operation: str
    outputs: int
    inputs: int


MODELS = {
    "8b": [
        Layer("qkv", "norm_linear", 6144, 4096),
        Layer("o", "linear_add", 4096, 4096),
        Layer("gate_up", "norm_linear_swiglu", 24576, 4096),
        Layer("down", "linear_add", 4096, 12288),
        Layer("head", "norm_linear", 155_697, 4096),
    ],
    "32b": [
        Layer("qkv", "norm_linear", 10240, 5120),
        Layer("o", "linear_add", 5120, 8192),
        Layer("gate_up", "norm_linear_swiglu", 51200, 5120),
        Layer("down", "linear_add", 5120, 25600),
        Layer("head", "norm_linear", 155_776, 5120),
    ],
}
DECODER_LAYERS = 36
KINDS = ("float", "e4m3", "int4")

# bf16, one row: block_n, block_k, warps, depth. Narrower weights have twice or four times as many inputs in 16
# bytes, and block_k grows with them, so that each thread keeps its chunk of a row.
ONE_ROW = [
    (2, 1024, 4, 1), (4, 1024, 4, 1), (8, 1024, 4, 1), (4, 1024, 4, 4), (2, 2048, 4, 1), (4, 2048, 4, 1),
    (4, 512, 2, 1), (8, 512, 2, 1), (8, 2048, 8, 1), (4, 2048, 8, 1), (8, 256, 1, 1),
]  # fmt: skip
# block_n, block_k, warps, depth, split; for 64 rows the tensor cores' wide form reads shared memory itself.
FEW_ROWS = [
    (16, 128, 4, 3, 4), (16, 128, 4, 4, 4), (32, 128, 4, 3, 4), (32, 64, 4, 4, 4), (16, 64, 4, 5, 4),
    (16, 128, 8, 3, 8), (16, 128, 2, 4, 2), (64, 128, 4, 4, 1), (64, 64, 4, 4, 1),
]  # fmt: skip


def candidates(rows: int, kind: str, layer: Layer) -> list[Configuration]:
    """What is worth a try; only cuts that divide K, as a mask costs more than another cut."""
    if rows == 1:
        factor = {"float": 1, "e4m3": 2, "int4": 4}[kind]
        ways = [Configuration(n, k * factor, warps, depth) for n, k, warps, depth in ONE_ROW]
        ways += [way._replace(ahead=True) for way in ways[:3]]
    else:
        ways = [Configuration(*way) for way in FEW_ROWS]
        ways += [way._replace(ahead=True) for way in (ways[0], ways[2], ways[4])]
        if kind == "int4":
            ways = [way._replace(block_k=128) for way in ways if way.block_n < 64]
    if layer.operation == "norm_linear_swiglu":  # twice the rows
        ways = [way._replace(block_n=max(way.block_n // 2, 16 if rows > 1 else 1)) for way in ways]
    even = [way for way in ways if layer.inputs % (way.block_k * way.split) == 0]
    return list(dict.fromkeys(even))


def key_of(rows: int, kind: str, layer: Layer) -> configurations.Key:
    """Its place in the table."""
    return (rows_class(rows), kind, layer.outputs, layer.inputs)


def make_weight(kind: str, n: int, k: int, device: str) -> SkinnyWeight:
    """Random numbers of the right form, without a float32 copy of them all."""
    if device == "meta":
        form = {"float": (torch.bfloat16, k), "e4m3": (torch.float8_e4m3fn, k), "int4": (torch.uint8, k // 2)}
        values = torch.empty(n, form[kind][1], dtype=form[kind][0], device=device)
    elif kind == "int4":
        values = torch.randint(256, (n, k // 2), dtype=torch.uint8, device=device)
    else:
        values = torch.empty(
            n, k, dtype=torch.bfloat16 if kind == "float" else torch.float8_e4m3fn, device=device
        )
        for part in values.split(16384):
            noise = torch.randn(part.shape, dtype=torch.bfloat16, device=device)
            part.copy_(noise * k**-0.5 if kind == "float" else (noise * 64).clamp(-448, 448))
    if kind == "float":
        return SkinnyWeight(values)
    if kind == "e4m3":
        return SkinnyWeight(values, torch.full((n, 1), k**-0.5 / 64, device=device))
    shape = (n, k // 128)
    return SkinnyWeight(
        values,
        torch.full(shape, k**-0.5 / 4, device=device),
        torch.full(shape, 7, dtype=torch.uint8, device=device),
    )


class Buffers:
    """Inputs and outputs of one layer."""

    def __init__(self, layer: Layer, rows: int, device: str):
        bf16 = {"dtype": torch.bfloat16, "device": device}
        wide = layer.outputs // (2 if layer.operation == "norm_linear_swiglu" else 1)
        self.layer = layer
        self.x = torch.randn(rows, layer.inputs, **bf16)  # type: ignore[call-overload]
        self.norm = torch.rand(layer.inputs, **bf16) + 0.5  # type: ignore[call-overload]
        self.out = torch.zeros(
            rows, wide, device=device, dtype=torch.float32 if wide > 100_000 else torch.bfloat16
        )

    def run(self, weight: SkinnyWeight, module: Any = operations, suffix: str = "") -> None:
        """The layer's operation."""
        call = getattr(module, self.layer.operation + suffix)
        if self.layer.operation == "linear_add":
            call(self.x, weight, self.out)
        else:
            call(self.x, self.norm, EPS, weight, self.out)


def compile_one(job: tuple[Layer, int, str, Configuration, bool]) -> str:
    """Compile in a process of its own, into the cache on the disk; the error, or nothing."""
    from alpamayo_rt.kernels.skinny import triton_kernels

    layer, rows, kind, way, overlap = job
    configurations.TABLE[key_of(rows, kind, layer)] = way
    configurations.PROGRAMMATIC_LAUNCH = overlap
    try:
        Buffers(layer, rows, "meta").run(make_weight(kind, layer.outputs, layer.inputs, "meta"), triton_kernels)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def graph_of(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Warm up and capture."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def microseconds(run: Callable[[], None], repeats: int) -> float:
    """Median of replays of a captured graph."""
    graph = graph_of(run)
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return 1000 * statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(events))


def copy_ceiling() -> float:
    """TB/s of a copy on the device, bytes read and written."""
    source = torch.randn(1 << 29, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / microseconds(lambda: target.copy_(source), 10) / 1e6


def weight_bytes(weight: SkinnyWeight) -> int:
    """What one pass has to read."""
    return sum(t.nbytes for t in weight if t is not None)


def tune(layer: Layer, rows: int, kind: str, failed: dict[Any, str], ceiling: float) -> dict[str, Any]:
    """Time all candidates with the overlap, the best without it too."""
    buffers = Buffers(layer, rows, DEVICE)
    pool = [make_weight(kind, layer.outputs, layer.inputs, DEVICE)]
    size = weight_bytes(pool[0])
    pool += [
        make_weight(kind, layer.outputs, layer.inputs, DEVICE)
        for _ in range(max(1, -(-POOL_BYTES // size) - 1))
    ]
    buffers.out.zero_()
    buffers.run(pool[0], suffix="_twin")
    expected = buffers.out.float()

    def run() -> None:
        for weight in pool:
            buffers.run(weight)

    measured: list[dict[str, Any]] = []
    for way in candidates(rows, kind, layer):
        if (layer, rows, kind, way, True) in failed:
            continue
        configurations.TABLE[key_of(rows, kind, layer)] = way
        buffers.out.zero_()
        try:
            buffers.run(pool[0])
        except Exception as problem:  # too much shared memory, say
            failed[layer, rows, kind, way, True] = f"{type(problem).__name__}: {problem}"[:300]
            print(f"{layer.name} {kind} R={rows} {tuple(way)}: {failed[layer, rows, kind, way, True]}")
            continue
        error = float((buffers.out.float() - expected).norm() / expected.norm())
        us = microseconds(run, 5) / len(pool)
        measured.append({"way": way, "us": us, "error": error})
    right = sorted((m for m in measured if m["error"] < WRONG), key=lambda m: m["us"])
    if not right:
        print(f"{layer.name} {kind} R={rows}: no candidate gives the right result: {measured} {failed}")
        sys.exit(1)
    configurations.PROGRAMMATIC_LAUNCH = False
    for one in right[:1]:
        configurations.TABLE[key_of(rows, kind, layer)] = one["way"]
        one["us_apart"] = microseconds(run, 5) / len(pool)
    configurations.PROGRAMMATIC_LAUNCH = True
    best = right[0]
    configurations.TABLE[key_of(rows, kind, layer)] = best["way"]
    rate = size / best["us"] / 1e6
    print(
        f"{layer.name:8}{layer.outputs:7}x{layer.inputs:<6}{kind:6}R={rows} {best['us']:7.1f} us "
        f"{rate:5.2f} TB/s {rate / ceiling:4.0%}  apart {best['us_apart']:7.1f}  "
        f"worst {right[-1]['us']:7.1f}  {tuple(best['way'])}",
        flush=True,
    )
    return {
        "layer": layer._asdict(), "rows": rows, "kind": kind, "bytes": size, "us": best["us"],
        "us_without_overlap": best["us_apart"], "tb_s": rate, "of_copy": rate / ceiling,
        "configuration": best["way"]._asdict(),
        "all": [{**m, "way": list(m["way"])} for m in measured],
        "failed": {str(list(job[3])): text for job, text in failed.items() if job[:3] == (layer, rows, kind)},
    }  # fmt: skip


def whole_step(kind: str, rows_list: list[int], ceiling: float) -> list[dict[str, Any]]:
    """All linear layers of a decode step of the 8b model in one graph, each layer with weights of its own."""
    *block, head = MODELS["8b"]
    weights = [[make_weight(kind, x.outputs, x.inputs, DEVICE) for x in block] for _ in range(DECODER_LAYERS)]
    last = make_weight(kind, head.outputs, head.inputs, DEVICE)
    size = sum(weight_bytes(w) for layer in weights for w in layer) + weight_bytes(last)
    results = []
    for rows in rows_list:
        buffers, end = [Buffers(layer, rows, DEVICE) for layer in block], Buffers(head, rows, DEVICE)

        def run(buffers: list[Buffers] = buffers, end: Buffers = end) -> None:
            for layer in weights:
                for buffer, weight in zip(buffers, layer, strict=True):
                    buffer.run(weight)
            end.run(last)

        taken = {}
        for overlap in (False, True):
            configurations.PROGRAMMATIC_LAUNCH = overlap
            taken[overlap] = microseconds(run, 10) / 1000
        rate = size / taken[True] / 1e9
        print(
            f"step     {kind:6}R={rows} {size / 1e9:5.2f} GB: {taken[False]:6.3f} ms apart, "
            f"{taken[True]:6.3f} ms overlapped, {rate:4.2f} TB/s, {rate / ceiling:4.0%} of a copy",
            flush=True,
        )
        results.append(
            {"kind": kind, "rows": rows, "bytes": size, "ms_apart": taken[False], "ms_overlapped": taken[True],
             "tb_s": rate, "of_copy": rate / ceiling}
        )  # fmt: skip
    return results


def main() -> None:
    """Compile, tune, time a step, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = Path(os.environ.get("OUT", "."))
    parser.add_argument("--out", type=Path, default=folder / "skinny_linear.json")
    parser.add_argument("--models", nargs="+", default=["8b"], choices=sorted(MODELS))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 6])
    parser.add_argument("--workers", type=int, default=min(14, os.cpu_count() or 1))
    parser.add_argument("--step-only", action="store_true", help="time one step with the table as it stands")
    arguments = parser.parse_args()
    begun = time.monotonic()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    ceiling = copy_ceiling()
    print(f"{torch.cuda.get_device_name()}, copy {ceiling:.2f} TB/s")
    cells = [
        (layer, rows, kind)
        for model in arguments.models
        for kind in arguments.kinds
        for rows in arguments.rows
        for layer in MODELS[model]
    ]
    layers = []
    if not arguments.step_only:
        jobs = [(*c, way, True) for c in cells for way in candidates(c[1], c[2], c[0])]
        with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as executor:
            errors = list(executor.map(compile_one, jobs, chunksize=4))
        failed = {job: error for job, error in zip(jobs, errors, strict=True) if error}
        spent = time.monotonic() - begun
        print(f"compiled {len(jobs)} kernels, {len(failed)} refused, {spent:.0f} s", flush=True)
        for text in sorted(set(failed.values())):
            print("  " + text)
        configurations.PROGRAMMATIC_LAUNCH = True
        layers = [tune(*cell, failed, ceiling) for cell in cells]
    steps = [step for kind in arguments.kinds for step in whole_step(kind, arguments.rows, ceiling)]
    record = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": "python benchmarks/skinny_linear.py " + " ".join(sys.argv[1:]),
        "torch": torch.__version__,
        "copy_tb_s": ceiling,
        "layers": layers,
        "steps": steps,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for one in layers:
        key = key_of(one["rows"], one["kind"], Layer(**one["layer"]))
        print(f"    {key!r}: Configuration{tuple(one['configuration'].values())},".replace("'", '"'))
    print(f"{time.monotonic() - begun:.0f} s in all; {arguments.out}")


if __name__ == "__main__":
    main()

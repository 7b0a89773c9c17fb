# SPDX-License-Identifier: Apache-2.0
"""Checks and times the operations around an expert's engine, and what the shared contract saves a request.

Run on a GPU: `python benchmarks/contract_operations.py --out benchmarks/results/NAME.json`. Sizes are those of
the released expert: 36 layers, 8 key-value heads of 128, 3136 cached positions, six candidates.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn import functional as F

from alpamayo_rt.kernels.contract import operations as ops

LAYERS, HEADS, KV_HEADS, DIM, WAYPOINTS = 36, 16, 8, 128, 64


def milliseconds(run: Callable[[], object]) -> float:
    """Median over many launches, in CUDA events."""
    return float(triton.testing.do_bench(run, warmup=100, rep=500, return_mode="median"))


def copy_bandwidth() -> float:
    """TB/s of a device-to-device copy of 4 GiB, counting bytes read and written."""
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e9


def repeat(slots: int, candidates: int, peak: float) -> dict[str, Any]:
    """The cache of one sequence, half precision, into the `kv_cache` binding."""
    planes = torch.randn(LAYERS, 2, KV_HEADS, slots, DIM, device="cuda", dtype=torch.float16)
    out = torch.full((2 * LAYERS, candidates, KV_HEADS, slots, DIM), torch.nan, device="cuda")
    length = torch.tensor(slots - 17, device="cuda")
    run = lambda: ops.repeat_cache(planes[:, 0], planes[:, 1], out, length)  # noqa: E731
    run()
    rows = planes.flatten(0, 1)
    wrong = sum(
        int((out[:, c, :, : slots - 17] != rows[:, :, : slots - 17].float()).sum())
        + int((out[:, c, :, slots - 17 :] != 0).sum())
        for c in range(candidates)
    )
    length.fill_(slots)
    moved = planes.nbytes + out.nbytes
    mine = milliseconds(run)
    twin = milliseconds(lambda: ops.repeat_cache_twin(planes[:, 0], planes[:, 1], out, length))
    return {
        "operation": "repeat_cache", "candidates": candidates, "slots": slots, "wrong": wrong,
        "bytes": moved, "ms": mine, "twin_ms": twin, "tb_s": moved / mine / 1e9,
        "of_copy": moved / mine / 1e9 / peak,
    }  # fmt: skip


def small(candidates: int) -> list[dict[str, Any]]:
    """The three operations on a few kilobytes: launches, not bytes, are what they cost."""
    start = torch.arange(candidates, device="cuda") + 519
    ids = torch.full((3, candidates, WAYPOINTS), -1, device="cuda")
    time = torch.rand((), device="cuda")
    timestep = torch.full((candidates, 1, 1), torch.nan, device="cuda")
    x, v = torch.randn(2, candidates, WAYPOINTS, 2, device="cuda")
    dt = torch.tensor(0.1, device="cuda")
    ops.build_position_ids(start, ids)
    ops.fill_timestep(time, timestep)
    expected = x.double() + v.double() * dt.double()
    ops.euler_update(x, v, dt)
    errors = {
        "build_position_ids": int((ids != start[:, None] + torch.arange(WAYPOINTS, device="cuda")).sum()),
        "fill_timestep": int((timestep != time).sum()),
        "euler_update": float((x.double() - expected).abs().max()),
    }
    runs: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
        "build_position_ids": (
            lambda: ops.build_position_ids(start, ids), lambda: ops.build_position_ids_twin(start, ids)
        ),
        "fill_timestep": (
            lambda: ops.fill_timestep(time, timestep), lambda: ops.fill_timestep_twin(time, timestep)
        ),
        "euler_update": (lambda: ops.euler_update(x, v, dt), lambda: ops.euler_update_twin(x, v, dt)),
    }  # fmt: skip
    return [
        {"operation": name, "candidates": candidates, "error": errors[name],
         "ms_in_a_graph": in_a_graph(run), "twin_ms_in_a_graph": in_a_graph(twin)}
        for name, (run, twin) in runs.items()
    ]  # fmt: skip


def in_a_graph(run: Callable[[], None], times: int = 50) -> float:
    """Milliseconds a call within a captured graph, which is how the runner launches them."""
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return milliseconds(graph.replay) / times


def attention(slots: int, candidates: int) -> dict[str, Any]:
    """The expert's attention over the cache, 36 layers of one step, in torch, as each contract stores it."""
    rows = candidates * WAYPOINTS
    half = torch.randn(2 * LAYERS, 1, KV_HEADS, slots, DIM, device="cuda", dtype=torch.float16)
    queries = torch.randn(1, KV_HEADS, rows * HEADS // KV_HEADS, DIM, device="cuda", dtype=torch.float16)
    each = queries.view(KV_HEADS, candidates, -1, DIM).transpose(0, 1).contiguous()
    fused = half.expand(-1, candidates, -1, -1, -1).float()

    def shared() -> None:
        for layer in range(LAYERS):
            F.scaled_dot_product_attention(queries, half[2 * layer], half[2 * layer + 1])

    def repeated() -> None:
        for layer in range(LAYERS):
            keys, values = fused[2 * layer].half(), fused[2 * layer + 1].half()
            F.scaled_dot_product_attention(each, keys, values)

    return {
        "operation": "attention over the cache, one step", "candidates": candidates, "slots": slots,
        "shared_bytes": half.nbytes, "fused_bytes": fused.nbytes,
        "shared_ms": milliseconds(shared), "fused_ms": milliseconds(repeated),
    }  # fmt: skip


def main() -> None:
    """Check, time, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    torch.manual_seed(0)
    peak = copy_bandwidth()
    results = [repeat(3136, k, peak) for k in (6, 1)]
    results += [*small(6), attention(3136, 6)]
    six, step = results[0], results[-1]
    saved = {
        "bytes": six["bytes"] + 10 * (step["fused_bytes"] - step["shared_bytes"]),
        "ms_repeat": six["ms"],
        "ms_ten_steps": 10 * (step["fused_ms"] - step["shared_ms"]),
        "memory_bytes": step["fused_bytes"],
    }
    clocks = subprocess.run(
        ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    record = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": f"python benchmarks/contract_operations.py --out benchmarks/results/{out.name}",
        "versions": {
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
        },
        "clocks": clocks,
        "copy_tb_s": peak,
        "results": results,
        "saved_a_request_by_the_shared_contract": saved,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    for result in results:
        print(result)
    print({"copy_tb_s": peak, **saved})
    errors = [r.get("wrong", 0) or r.get("error", 0) for r in results]
    sys.exit(int(max(errors) > 1e-6))


if __name__ == "__main__":
    main()

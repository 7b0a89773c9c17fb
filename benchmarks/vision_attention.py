# SPDX-License-Identifier: Apache-2.0
"""Checks and times attention among an image's patches, and the vision tower's norm, in several divisions.

Run on a GPU: `python benchmarks/vision_attention.py --out benchmarks/results/NAME.json`. Sizes are the released
ones: images of 720 patches, 16 heads of 72. Each figure is the median over replays of a CUDA graph of nine
calls, which take three sets of inputs in turn. The library's attention is timed on queries and keys that are
already rotated; `turn keys` is half of what it takes to rotate both.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alpamayo_rt.kernels.attention import triton_patches
from alpamayo_rt.kernels.attention.patches import PatchConfiguration, patch_attention_twin, patch_configuration
from alpamayo_rt.kernels.layers import vision_triton
from alpamayo_rt.kernels.skinny import configurations as launches

PATCHES, HEADS, DIM = 720, 16, 72
HIDDEN, SETS, CALLS = HEADS * DIM, 3, 9
CONFIGURATIONS = [
    PatchConfiguration(block_m, block_n, warps, stages, registers)
    for block_m, block_n, warps, stages, registers in (
        (128, 64, 8, 2, 128), (128, 64, 8, 3, 128), (128, 64, 8, 4, 128), (128, 32, 8, 3, 128),
        (128, 128, 8, 2, None), (128, 64, 4, 2, None), (128, 64, 4, 3, None), (64, 64, 4, 2, 128),
        (64, 64, 4, 3, 128), (64, 128, 4, 2, None), (256, 64, 8, 2, None), (256, 32, 8, 3, None),
    )
]  # fmt: skip
"""None of these spills registers in its loops at the released sizes."""
NORM_LAUNCHES = [(1, 4), (1, 2), (1, 1), (2, 1), (2, 2), (2, 4), (4, 4), (8, 8)]


@dataclass
class Case:
    """One line of the table; `run(i)` is what is timed, on set i, `check` returns its relative error."""

    operation: str
    images: int
    how: dict[str, Any]
    run: Callable[[int], object]
    check: Callable[[], float]
    overlap: bool = True
    kernel: bool = True
    result: dict[str, Any] = field(default_factory=dict)


def relative(out: torch.Tensor, exact: torch.Tensor) -> float:
    """L2 distance over L2 norm."""
    return float((out.double() - exact).norm() / exact.norm())


def microseconds(run: Callable[[int], object]) -> float:
    """Of one call."""
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(CALLS):
            run(call % SETS)
    graph.replay()
    spans = []
    for _ in range(15):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        spans.append(begin.elapsed_time(end) * 1e3 / CALLS)
    return statistics.median(spans)


def attention_cases(images: int) -> list[Case]:
    """Ours in all configurations, its first kernel alone, and the library's attention alone."""
    tokens = images * PATCHES
    fresh = torch.randn(tokens, 3 * HIDDEN, device="cuda", dtype=torch.bfloat16)
    sets = torch.randn(SETS, tokens, 3 * HIDDEN, device="cuda", dtype=torch.bfloat16)
    arrivals = torch.zeros(images * HEADS, device="cuda", dtype=torch.int32)
    outs = torch.full((SETS, tokens, HEADS, DIM), torch.nan, device="cuda", dtype=torch.bfloat16)
    angle = torch.randn(PATCHES, DIM // 2, device="cuda")
    cos, sin = angle.cos(), angle.sin()
    exact = torch.empty(tokens, HEADS, DIM, device="cuda", dtype=torch.float64)
    patch_attention_twin(fresh.double(), cos.double(), sin.double(), exact, arrivals)

    def case(c: PatchConfiguration, overlap: bool = True) -> Case:
        def run(i: int) -> None:
            triton_patches.patch_attention(sets[i], cos, sin, outs[i], arrivals, c)

        def check() -> float:
            outs[0].fill_(torch.nan)
            sets[0].copy_(fresh)
            run(0)
            return relative(outs[0], exact)

        return Case("patch attention", images, {**asdict(c), "overlap": overlap}, run, check, overlap)

    def turn(block: int) -> Case:
        c = PatchConfiguration(turned=block)

        def run(i: int) -> None:
            triton_patches.turn_keys(sets[i], cos, sin, HEADS, c)

        def check() -> float:
            sets[0].copy_(fresh)
            run(0)
            first, second = fresh.double().view(images, PATCHES, 3, HEADS, DIM)[:, :, 1].chunk(2, -1)
            c, s = cos.double()[:, None], sin.double()[:, None]
            turned = torch.cat([first * c - second * s, second * c + first * s], -1)
            return relative(sets[0].view(images, PATCHES, 3, HEADS, DIM)[:, :, 1], turned)

        return Case("patch attention", images, {"turn keys": "alone", "turned": block}, run, check)

    def library(name: str, backend: SDPBackend) -> Case:
        q, k = torch.randn(2, SETS, tokens, HEADS, DIM, device="cuda", dtype=torch.bfloat16)

        def heads(i: int) -> list[torch.Tensor]:
            v = sets[i].view(tokens, 3, HEADS, DIM)[:, 2]
            return [t.unflatten(0, (images, -1)).transpose(1, 2) for t in (q[i], k[i], v)]

        def run(i: int) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*heads(i)).transpose(1, 2).reshape(outs[i].shape)

        def check() -> float:
            right = F.scaled_dot_product_attention(*(t.double() for t in heads(0)))
            return relative(run(0), right.transpose(1, 2).reshape(outs[0].shape))

        return Case("patch attention", images, {"torch, rotated before": name}, run, check, kernel=False)

    chosen = patch_configuration(torch.bfloat16)
    other = [replace(c, together=True) for c in CONFIGURATIONS if c.block_n == 64]
    other += [replace(c, steady=False, together=t) for c in CONFIGURATIONS[:2] for t in (False, True)]
    ours = [case(c) for c in dict.fromkeys([chosen, *CONFIGURATIONS, *other])]
    libraries = [library("cudnn", SDPBackend.CUDNN_ATTENTION), library("flash", SDPBackend.FLASH_ATTENTION)]
    return [*ours, case(chosen, overlap=False), *(turn(block) for block in (128, 256, 512)), *libraries]


def norm_cases(images: int) -> list[Case]:
    """The norm of the stream with its missing biases, by rows and warps of a program."""
    tokens = images * PATCHES
    x = torch.randn(SETS, tokens, HIDDEN, device="cuda", dtype=torch.bfloat16)
    out = torch.full_like(x, torch.nan)
    weight, bias = torch.randn(2, HIDDEN, device="cuda", dtype=torch.bfloat16)
    shift = torch.randn(HIDDEN, device="cuda")
    exact = F.layer_norm(x[0].double() + shift, (HIDDEN,), weight.double(), bias.double(), 1e-6)

    def case(launch: tuple[int, int]) -> Case:
        def run(i: int) -> None:
            vision_triton.add_layer_norm(x[i], None, weight, bias, 1e-6, out[i], shift, launch)

        def check() -> float:
            out[0].fill_(torch.nan)
            run(0)
            return relative(out[0], exact)

        how = dict(zip(("rows", "warps"), launch, strict=True))
        return Case("add_layer_norm", images, how, run, check)

    return [case(launch) for launch in NORM_LAUNCHES]


def measure(case: Case) -> None:
    """Fills the result; a configuration that the GPU refuses keeps its reason."""
    launches.PROGRAMMATIC_LAUNCH = case.overlap
    try:
        error = case.check()
        case.result = {"microseconds": microseconds(case.run), "error": error}
    except Exception as refusal:  # out of shared memory, or a backend that cannot
        case.result = {"refused": f"{type(refusal).__name__}: {refusal}"[:200]}
    launches.PROGRAMMATIC_LAUNCH = True


def compile_all(cases: list[Case]) -> None:
    """Run each once, so that kernels are compiled side by side."""

    def once(case: Case) -> None:
        try:
            case.run(0)
        except Exception:  # is told when it is measured
            return

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        list(pool.map(once, [case for case in cases if case.kernel]))
    torch.cuda.synchronize()


def table(cases: list[Case]) -> None:
    """Fastest first within each group."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(f"{case.operation}, {case.images} images", []).append(case)
    for group, members in groups.items():
        print(group)
        for case in sorted(members, key=lambda c: c.result.get("microseconds", 1e9)):
            told = case.result
            line = told.get("refused") or f"{told['microseconds']:7.1f} us  error {told['error']:.1e}"
            print("  ", line[:70], " ".join(f"{k}={v}" for k, v in case.how.items()))


def main() -> None:
    """Groups one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(folder, "vision_attention.json") if folder else None)
    options = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(0)
    done: list[Case] = []
    for build, images in ((attention_cases, 16), (norm_cases, 16), (attention_cases, 4), (norm_cases, 4)):
        cases = build(images)
        compile_all(cases)
        for case in cases:
            measure(case)
        for case in cases:  # let go of the inputs
            case.run = case.check = lambda *_: 0.0
        done += cases
        torch.cuda.empty_cache()
    record = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cases": [{"operation": c.operation, "images": c.images, **c.how, **c.result} for c in done],
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    table(done)
    print(record["device"], f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

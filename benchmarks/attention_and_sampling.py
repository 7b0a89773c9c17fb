# SPDX-License-Identifier: Apache-2.0
"""Checks and times attention, the choice of tokens and the start of a pass, in several divisions of work.

Run on a GPU: `python benchmarks/attention_and_sampling.py --out benchmarks/results/NAME.json`. Sizes are those
of the released models: 36 layers, 8 key-value heads of 128, 155,697 tokens. Each figure is the median over
replays of a CUDA graph that goes through the caches of all layers: none is found in the GPU's own cache.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alpamayo_rt.engine.sampling import Sampling, choose
from alpamayo_rt.kernels.attention import operations as attention
from alpamayo_rt.kernels.attention.scratch import (
    DecodeConfiguration,
    DecodeScratch,
    ExpertConfiguration,
    ExpertScratch,
    decode_configuration,
    expert_configuration,
)
from alpamayo_rt.kernels.layers.decoder import qk_norm_rope_twin
from alpamayo_rt.kernels.rollout import operations as rollout
from alpamayo_rt.kernels.sampling import operations as sampling
from alpamayo_rt.kernels.skinny import configurations as launches
from alpamayo_rt.kernels.skinny import operations as skinny

LAYERS, KV_HEADS, DIM, WAYPOINTS, ROOM, VOCABULARY = 36, 8, 128, 64, 257, 155_697
SCALE = DIM**-0.5
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass
class Case:
    """One line of the table; `run(layer)` is what is timed, `check` returns its relative error."""

    operation: str
    shape: dict[str, Any]
    configuration: dict[str, Any]
    run: Callable[[int], object]
    check: Callable[[], float]
    times: int = LAYERS
    kernel: bool = True
    result: dict[str, Any] = field(default_factory=dict)


def relative(out: torch.Tensor, exact: torch.Tensor) -> float:
    """L2 distance over L2 norm."""
    return float((out.double() - exact.double()).norm() / exact.double().norm())


def microseconds(run: Callable[[int], object], times: int) -> float:
    """Of one call, median over replays of a graph with one call a layer."""
    for layer in range(2):
        run(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(times):
            run(layer)
    graph.replay()
    spans = []
    for _ in range(15):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        spans.append(begin.elapsed_time(end) * 1e3 / times)
    return statistics.median(spans)


def caches(prefix: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of all layers, prompt and tails."""
    both = torch.randn(2, LAYERS, KV_HEADS, prefix + rows * ROOM, DIM, device="cuda", dtype=torch.bfloat16)
    return both[0], both[1]


def torch_cases(
    operation: str, shape: dict[str, Any], queries: int, keys: torch.Tensor, values: torch.Tensor
) -> list[Case]:
    """What torch can express: the queries of a group over the prefix alone, as rows of one head."""
    prefix = shape["prefix"]
    q = torch.randn(1, KV_HEADS, queries, DIM, device="cuda", dtype=torch.bfloat16)

    def case(name: str, backend: SDPBackend) -> Case:
        def run(layer: int) -> torch.Tensor:
            with sdpa_kernel(backend):
                k, v = keys[layer, None, :, :prefix], values[layer, None, :, :prefix]
                return F.scaled_dot_product_attention(q, k, v)

        return Case(operation, shape, {"torch, prefix alone": name}, run, lambda: 0.0, kernel=False)

    return [case(name, backend) for name, backend in BACKENDS.items()]


def decode_cases(heads: int, rows: int, prefix: int, every: bool) -> list[Case]:
    """One token a row from its query, key and value on, tails of 30 tokens."""
    keys, values = caches(prefix, rows)
    shape = {"heads": heads, "rows": rows, "prefix": prefix}
    qkv = torch.randn(rows, (heads + 2 * KV_HEADS) * DIM, device="cuda", dtype=torch.bfloat16)
    weights = torch.ones(2, DIM, device="cuda", dtype=torch.bfloat16)
    angle = torch.randn(rows, DIM // 2, device="cuda")
    length = torch.tensor(prefix, device="cuda")
    tails = torch.arange(rows, device="cuda", dtype=torch.int32) % 3 + 29
    slots = prefix + ROOM * torch.arange(rows, device="cuda") + tails - 1
    token = (qkv, *weights, 1e-6, angle.cos(), angle.sin(), slots)
    seen = (length, prefix, ROOM, tails, SCALE)

    def case(configuration: DecodeConfiguration) -> Case:
        scratch = DecodeScratch.allocate(rows, heads, KV_HEADS, DIM, "cuda", configuration)
        out = torch.full((rows, heads, DIM), torch.nan, device="cuda", dtype=torch.bfloat16)

        def run(layer: int) -> None:
            attention.decode_attention_from_qkv(*token, keys[layer], values[layer], *seen, out, scratch)

        def check() -> float:
            q, k, v = torch.empty_like(out), keys[3].clone(), values[3].clone()
            qk_norm_rope_twin(*token, q, k, v)
            exact = torch.empty(out.shape, device="cuda")
            attention.decode_attention_twin(q.float(), k.float(), v.float(), *seen, exact)
            out.fill_(torch.nan)
            run(3)
            return relative(out, exact)

        return Case("decode", shape, asdict(configuration), run, check)

    chosen = decode_configuration(rows, heads, KV_HEADS, prefix)
    tried = [chosen]
    if every:
        tried += [
            DecodeConfiguration(splits, block_n, 4, stages)
            for splits, block_n, stages in (
                (16, 64, 3), (16, 128, 2), (24, 64, 3), (32, 64, 3), (32, 32, 4), (32, 64, 2), (48, 64, 2),
                (32, 128, 1), (26, 64, 2), (12, 64, 4),
            )
        ]  # fmt: skip
    cases = [case(c) for c in dict.fromkeys(tried)]
    return cases + torch_cases("decode", shape, rows * heads // KV_HEADS, keys, values)


def expert_cases(heads: int, candidates: int, prefix: int, every: bool) -> list[Case]:
    """64 waypoints a candidate, one shared tail of 32 tokens."""
    keys, values = caches(prefix, 1)
    shape = {"heads": heads, "candidates": candidates, "prefix": prefix}
    made = [
        torch.randn(candidates, WAYPOINTS, n, DIM, device="cuda", dtype=torch.bfloat16)
        for n in (heads, KV_HEADS, KV_HEADS)
    ]
    q, own_keys, own_values = made
    arguments = (
        torch.tensor(prefix, device="cuda"), prefix, ROOM,
        torch.zeros(candidates, dtype=torch.int64, device="cuda"),
        torch.full((candidates,), 32, dtype=torch.int32, device="cuda"),
    )  # fmt: skip

    def case(configuration: ExpertConfiguration) -> Case:
        scratch = ExpertScratch.allocate(candidates, WAYPOINTS, heads, KV_HEADS, DIM, "cuda", configuration)
        out = torch.full(q.shape, torch.nan, device="cuda", dtype=torch.bfloat16)

        def run(layer: int) -> None:
            attention.expert_attention(
                q, keys[layer], values[layer], *arguments, own_keys, own_values, SCALE, out, scratch
            )

        def check() -> float:
            exact = torch.empty(q.shape, device="cuda")
            attention.expert_attention_twin(
                q.float(), keys[3].float(), values[3].float(), *arguments,
                own_keys.float(), own_values.float(), SCALE, exact,
            )  # fmt: skip
            out.fill_(torch.nan)
            run(3)
            return relative(out, exact)

        return Case("expert", shape, asdict(configuration), run, check)

    tried = [expert_configuration(candidates, WAYPOINTS, heads, KV_HEADS, half_parts=True)]
    if every:
        few, usual, many = (3, 5, 11) if candidates > 1 else (8, 17, 26)
        tried += [
            ExpertConfiguration(few, half_parts=True, specialized=True),
            ExpertConfiguration(usual, 128, 64, 8, 2, 128, half_parts=True),
            ExpertConfiguration(usual, 128, 64, 8, 2, None),
            ExpertConfiguration(usual, 128, 128, 8, 2, None),
            ExpertConfiguration(usual, 128, 32, 8, 3, 128),
            ExpertConfiguration(few, 128, 64, 8, 3, None),
            ExpertConfiguration(few, 128, 128, 8, 2, None),
            ExpertConfiguration(many, 128, 64, 8, 2, 128, half_parts=True),
            ExpertConfiguration(many, 128, 64, 8, 3, None, half_parts=True),
            ExpertConfiguration(few, 64, 64, 4, 2, None),
            ExpertConfiguration(few, 64, 64, 4, 2, 168),
        ]
    cases = [case(c) for c in dict.fromkeys(tried)]
    return cases + torch_cases("expert", shape, candidates * WAYPOINTS * heads // KV_HEADS, keys, values)


def sampling_cases(rows: int, kind: str, every: bool) -> list[Case]:
    """The default settings; `random` weights' logits, the same rounded to bfloat16, or a `peaked` model's."""
    shape, scale = {"rows": rows, "logits": kind}, 4.0 if kind == "peaked" else 1.28
    logits = torch.randn(rows, VOCABULARY, device="cuda") * scale
    logits = logits.bfloat16().float() if kind == "bfloat16" else logits
    masked = torch.tensor([[151_669, 155_670], [0, 0]], device="cuda")
    settings = sampling.sampling_settings(0.6, 0.98, None, "cuda")
    uniforms = torch.rand(16, rows, device="cuda", dtype=torch.float64)

    def case(configuration: sampling.SamplingConfiguration) -> Case:
        scratch = sampling.SamplingScratch.allocate(rows, VOCABULARY, "cuda", configuration)
        out, exact = (torch.full((rows,), -1, device="cuda") for _ in range(2))

        def run(draw: int) -> None:
            sampling.choose_tokens(logits, uniforms[draw % 16], settings, masked, out, scratch)

        def check() -> float:
            wrong = 0
            for draw in range(16):
                run(draw)
                sampling.choose_tokens_twin(logits, uniforms[draw], settings, masked, exact)
                wrong += int((out != exact).sum())
            return wrong / (16 * rows)

        return Case("choose", shape, asdict(configuration), run, check, times=8)

    tried = [sampling.SamplingConfiguration()]
    if every:
        tried += [
            sampling.SamplingConfiguration(*numbers)
            for numbers in (
                (132, 1024, 8, 4096, 16, 512), (264, 2048, 8, 4096, 16, 512), (264, 1024, 8, 2048, 16, 512),
                (264, 1024, 8, 1024, 16, 512), (264, 1024, 8, 2048, 16, 256), (264, 1024, 8, 1024, 16, 256),
                (264, 1024, 8, 2048, 8, 512), (264, 1024, 4, 2048, 16, 256), (528, 1024, 8, 4096, 16, 512),
            )
        ]  # fmt: skip

    def by_sort(draw: int) -> None:
        out = torch.empty(rows, dtype=torch.int64, device="cuda")
        sampling.choose_tokens_twin(logits, uniforms[draw % 16], settings, masked, out)

    return [
        *map(case, tried),
        Case("choose", shape, {"torch": "a sort, in a graph"}, by_sort, lambda: 0.0, 8, False),
    ]


def start_cases(rows: int) -> list[Case]:
    """What a decode pass begins with: rows of the embedding and of the rotary angles."""
    table = torch.randn(VOCABULARY, 4096, device="cuda", dtype=torch.bfloat16)
    cosines, sines = torch.randn(2, 4096, DIM // 2, device="cuda")
    ids, positions = torch.randint(4096, (2, rows), device="cuda")
    out = torch.zeros(rows, 4096, device="cuda", dtype=torch.bfloat16)
    cos, sin = torch.zeros(2, rows, DIM // 2, device="cuda")
    arguments = (table, ids, out, (cosines, sines), positions, (cos, sin))

    def check() -> float:
        skinny.embed_and_place(*arguments)
        exact = torch.cat((table[ids].float(), cosines[positions], sines[positions]), 1)
        return relative(torch.cat((out.float(), cos, sin), 1), exact)

    mine = Case("start", {"rows": rows}, {}, lambda _: skinny.embed_and_place(*arguments), check)
    twin = lambda _: skinny.embed_and_place_twin(*arguments)  # noqa: E731
    return [mine, Case("start", mine.shape, {"torch": "a launch each"}, twin, lambda: 0.0, kernel=False)]


def advance_case() -> Case:
    """The bookkeeping of six rows."""
    given = rollout.RolloutInput.allocate(6, 256, "cuda")
    state = rollout.RolloutState.allocate(6, 256, "cuda")
    chosen = torch.randint(9, 99, (6,), device="cuda")

    def check() -> float:
        state.step.zero_()
        rollout.advance(chosen, given, state, 100, 257)
        torch.cuda.synchronize()
        right = int(state.flags[0]) == rollout.GO_ON and torch.equal(state.token, chosen)
        return 0.0 if right else 1.0

    return Case("advance", {"rows": 6}, {}, lambda _: rollout.advance(chosen, given, state, 100, 257), check)


def measure(case: Case) -> None:
    """Fills the result; a configuration that the GPU refuses keeps its reason."""
    try:
        error = case.check()
        case.result = {"microseconds": microseconds(case.run, case.times), "error": error}
    except Exception as refusal:  # out of shared memory, or a backend that cannot
        case.result = {"refused": f"{type(refusal).__name__}: {refusal}"[:200]}


def measure_all(cases: list[Case]) -> list[Case]:
    """Run each once, so that kernels are compiled side by side; measure each, and let go of its inputs."""

    def once(case: Case) -> None:
        try:
            case.run(0)
        except Exception:  # is told when it is measured
            return

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        list(pool.map(once, [case for case in cases if case.kernel]))
    torch.cuda.synchronize()
    for case in cases:
        measure(case)
        case.run = case.check = lambda *_: 0.0
    torch.cuda.empty_cache()
    return cases


def eager_choice(rows: int) -> float:
    """Milliseconds of the eager engine's choice, host included."""
    logits = torch.randn(rows, VOCABULARY, device="cuda")
    uniforms = torch.rand(rows, device="cuda", dtype=torch.float64)
    run = lambda: choose(logits, uniforms, Sampling(), ((151_669, 155_670),))  # noqa: E731
    return float(triton.testing.do_bench(run, warmup=20, rep=100, return_mode="median"))


def table(cases: list[Case]) -> None:
    """Fastest first within each shape."""
    shapes: dict[str, list[Case]] = {}
    for case in cases:
        shapes.setdefault(f"{case.operation} {case.shape}", []).append(case)
    for shape, group in shapes.items():
        print(shape)
        for case in sorted(group, key=lambda c: c.result.get("microseconds", 1e9)):
            told = case.result
            line = told.get("refused") or f"{told['microseconds']:8.1f} us  error {told['error']:.1e}"
            print("  ", line[:70], " ".join(f"{k}={v}" for k, v in case.configuration.items()))


def main() -> None:
    """Runs all groups, one after the other, so that their caches fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(folder, "attention.json") if folder else None)
    parser.add_argument("--only", choices=["decode", "expert", "start", "choose", "advance"])
    parser.add_argument("--overlap", action="store_true", help="kernels start while others drain")
    parser.add_argument("--quick", action="store_true", help="only the configurations that are in use")
    options = parser.parse_args()
    every, started = not options.quick, time.perf_counter()
    torch.manual_seed(0)
    launches.PROGRAMMATIC_LAUNCH = options.overlap
    groups: list[tuple[str, Callable[[], list[Case]]]] = [
        *(
            ("decode", lambda h=h, r=r, s=s: decode_cases(h, r, s, every and s == 3120))
            for h, r, s in ((32, 1, 3120), (32, 6, 3120), (64, 1, 3120), (64, 6, 3120), (32, 6, 4580))
        ),
        *(
            ("expert", lambda k=k, s=s: expert_cases(16, k, s, every and s == 3120))
            for k, s in ((6, 3120), (1, 3120), (6, 4580))
        ),
        *(
            ("choose", lambda r=r, n=n: sampling_cases(r, n, every and n == "random"))
            for r, n in ((1, "random"), (6, "random"), (6, "bfloat16"), (6, "peaked"))
        ),
        *(("start", lambda r=r: start_cases(r)) for r in (1, 6)),
        ("advance", lambda: [advance_case()]),
    ]
    done: list[Case] = []
    for name, build in groups:
        if options.only in (None, name):
            done += measure_all(build())
    record = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "eager_choice_ms": {rows: eager_choice(rows) for rows in (1, 6)},
        "cases": [
            {"operation": c.operation, **c.shape, "configuration": c.configuration, **c.result} for c in done
        ],
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    table(done)
    print(record["device"], "eager choice", record["eager_choice_ms"], f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

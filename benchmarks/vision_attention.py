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
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import triton
from attention_and_sampling import Case, measure_all, relative, table
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from alpamayo_rt.kernels.attention import triton_patches, triton_turn
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


def attention_cases(images: int) -> list[Case]:
    """Ours in all configurations, its first kernel alone, and the library's attention alone."""
    tokens, shape = images * PATCHES, {"images": images}
    fresh = torch.randn(tokens, 3 * HIDDEN, device="cuda", dtype=torch.bfloat16)
    sets = torch.randn(SETS, tokens, 3 * HIDDEN, device="cuda", dtype=torch.bfloat16)
    outs = torch.full((SETS, tokens, HEADS, DIM), torch.nan, device="cuda", dtype=torch.bfloat16)
    angle = torch.randn(PATCHES, DIM // 2, device="cuda")
    cos, sin = angle.cos(), angle.sin()
    exact = torch.empty(tokens, HEADS, DIM, device="cuda", dtype=torch.float64)
    patch_attention_twin(fresh.double(), cos.double(), sin.double(), exact)

    def case(c: PatchConfiguration, overlap: bool = True) -> Case:
        def run(i: int) -> None:
            launches.PROGRAMMATIC_LAUNCH = overlap
            triton_patches.patch_attention(sets[i % SETS], cos, sin, outs[i % SETS], c)
            launches.PROGRAMMATIC_LAUNCH = True

        def check() -> float:
            outs[0].fill_(torch.nan)
            sets[0].copy_(fresh)
            run(0)
            return relative(outs[0], exact)

        how = {**asdict(c), "overlap": overlap}
        return Case("patch attention", shape, how, run, check, CALLS, kernel=overlap)

    def turn(block: int) -> Case:
        c = PatchConfiguration(turned=block)

        def run(i: int) -> None:
            triton_turn.turn_keys(sets[i % SETS], cos, sin, HEADS, c)

        def check() -> float:
            sets[0].copy_(fresh)
            run(0)
            first, second = fresh.double().view(images, PATCHES, 3, HEADS, DIM)[:, :, 1].chunk(2, -1)
            c, s = cos.double()[:, None], sin.double()[:, None]
            turned = torch.cat([first * c - second * s, second * c + first * s], -1)
            return relative(sets[0].view(images, PATCHES, 3, HEADS, DIM)[:, :, 1], turned)

        return Case("patch attention", shape, {"turn keys": "alone", "turned": block}, run, check, CALLS)

    def library(name: str, backend: SDPBackend) -> Case:
        q, k = torch.randn(2, SETS, tokens, HEADS, DIM, device="cuda", dtype=torch.bfloat16)

        def heads(i: int) -> list[torch.Tensor]:
            v = sets[i % SETS].view(tokens, 3, HEADS, DIM)[:, 2]
            parts = (q[i % SETS], k[i % SETS], v)
            return [part.unflatten(0, (images, -1)).transpose(1, 2) for part in parts]

        def run(i: int) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*heads(i)).transpose(1, 2).reshape(outs[0].shape)

        def check() -> float:
            right = F.scaled_dot_product_attention(*(t.double() for t in heads(0)))
            return relative(run(0), right.transpose(1, 2).reshape(outs[0].shape))

        how = {"torch, rotated before": name}
        return Case("patch attention", shape, how, run, check, CALLS, kernel=False)

    chosen = patch_configuration(torch.bfloat16)
    rising = [replace(c, steady=False) for c in CONFIGURATIONS[:2]]
    ours = [case(c) for c in dict.fromkeys([chosen, *CONFIGURATIONS, *rising])]
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
            here, there = x[i % SETS], out[i % SETS]
            vision_triton.add_layer_norm(here, None, weight, bias, 1e-6, there, shift, launch=launch)

        def check() -> float:
            out[0].fill_(torch.nan)
            run(0)
            return relative(out[0], exact)

        how = dict(zip(("rows", "warps"), launch, strict=True))
        return Case("add_layer_norm", {"images": images}, how, run, check, CALLS)

    return [case(launch) for launch in NORM_LAUNCHES]


def main() -> None:
    """Groups one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(folder, "vision_attention.json") if folder else None)
    options = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(0)
    done: list[Case] = []
    for images in (16, 4):
        done += measure_all(attention_cases(images) + norm_cases(images))
    record = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cases": [{"operation": c.operation, **c.shape, **c.configuration, **c.result} for c in done],
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    table(done)
    print(record["device"], f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

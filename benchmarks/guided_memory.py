# SPDX-License-Identifier: Apache-2.0
"""Guidance at released sizes on one GPU: two caches, six candidates, random weights; time and peak memory.

    python benchmarks/guided_memory.py --precision bf16 --out benchmarks/results/NAME.json

The request is W6 of `alpamayo-rt bench`. The prompt without navigation lacks ten of its text tokens; the
known 31 tokens are appended to it, as `Model.unguided_hand_off` does.

Fields of the record: `peak_gib` is what tensors took at most, `reserved_gib` what PyTorch's allocator held at
most, from the first weight on; `process_gib` adds what the device holds besides (context, kernels, cuBLAS),
and decides over the exit status. `alloc_retries` counts how often the allocator had to give memory back to go
on: above 0 the times are not to be quoted. `stages_ms` are medians between events on the stream; `append` is
the known tokens behind the second prompt, `flow` all steps over both caches.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from source

import torch

from alpamayo_rt.bench.subject import make_random_subject
from alpamayo_rt.bench.timing import Marks
from alpamayo_rt.bench.workloads import SAMPLING, Request, choose_workloads
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.hand_off import hand_off
from alpamayo_rt.prompt.prompt import Prompt

BEHIND, LEFT_OUT = 40, 10
"""Tokens from the navigation's first on, and how many of them it is."""
WARM_UP = 2
CARD_GIB = 78.0


def without_navigation(prompt: Prompt) -> Prompt:
    """The prompt without ten of the text tokens behind its images."""
    kept = torch.ones(len(prompt), dtype=torch.bool)
    kept[-BEHIND : LEFT_OUT - BEHIND] = False
    return replace(
        prompt,
        text_ids=prompt.text_ids[kept],
        ids=prompt.ids[kept],
        positions=prompt.positions[:, : int(kept.sum())],
    )


@torch.inference_mode()
def guided_request(engine: Engine, request: Request, plain: Prompt, mark: Marks) -> torch.Tensor:
    """One guided request; the actions (K, W, 2) on the host."""
    workload, waypoints = request.workload, request.noise.shape[1]
    room = SAMPLING.max_generate_length + workload.candidates * waypoints
    features = engine.encode_images(request.images)
    mark("vision")
    cache, logits = engine.prefill(request.prompt, features, room)
    mark("prefill")
    rule = request.rule
    rollout = engine.reason(cache, logits, SAMPLING, rule, request.uniforms, forced=request.forced)
    mark("reasoning")
    other, _ = engine.prefill_from(cache, len(request.prompt) - BEHIND, plain, features, room)
    mark("second_prompt")
    engine.append(other, [0], rollout.tokens, unseen=-1)
    mark("append")
    branches = [hand_off(c, rollout.tokens, request.reads(), rule.closing, waypoints) for c in (cache, other)]
    action = engine.denoise(request.noise, workload.steps, *branches, 3.0)
    mark("flow")
    return action.cpu()


def memory(device: torch.device) -> dict[str, float | int]:
    """What the process took; see above."""
    free, total = torch.cuda.mem_get_info(device)
    besides = total - free - torch.cuda.memory_reserved(device)
    reserved = torch.cuda.max_memory_reserved(device)
    return {
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2),
        "reserved_gib": round(reserved / 2**30, 2),
        "process_gib": round((reserved + besides) / 2**30, 2),
        "card_gib": round(total / 2**30, 2),
        "alloc_retries": torch.cuda.memory_stats(device)["num_alloc_retries"],
    }


def main() -> int:
    """Run it; 1 where it needs more than the card has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="alpamayo2_super")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda")
    subject = make_random_subject(
        args.family, args.precision, device, 0, lambda line: print(line, file=sys.stderr)
    )
    engine = subject.engine("graphs", device)
    (workload,) = choose_workloads(("W6",), True, None, None, None)
    request = subject.request(workload)
    plain = without_navigation(request.prompt)
    totals, stages = [], []
    # The second cache is new in the first run, which makes the second one capture once more.
    for n in range(WARM_UP + args.repetitions):
        torch.cuda.synchronize()
        start = time.perf_counter()
        marks = Marks(device)
        action = guided_request(engine, request, plain, marks)
        totals.append((time.perf_counter() - start) * 1e3)
        stages.append(marks.milliseconds())
        print(f"run {n + 1}: {totals[-1]:.0f} ms", file=sys.stderr)
    assert bool(torch.isfinite(action).all())
    record = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "versions": {"torch": torch.__version__},
        "family": args.family,
        "precision": args.precision,
        "prompt_tokens": len(request.prompt),
        "weights_gib": round(subject.bytes.total / 2**30, 2),
        **memory(device),
        "n": args.repetitions,
        "total_ms": round(statistics.median(totals[WARM_UP:]), 1),
        "stages_ms": {
            name: round(statistics.median(run[name] for run in stages[WARM_UP:]), 2) for name in stages[0]
        },
    }
    print(json.dumps(record, indent=1))
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(record["process_gib"] > CARD_GIB)


if __name__ == "__main__":
    sys.exit(main())

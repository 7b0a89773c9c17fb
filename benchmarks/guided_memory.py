# SPDX-License-Identifier: Apache-2.0
"""Guidance at released sizes on one GPU: two caches, six candidates, random weights; time and peak memory.

    python benchmarks/guided_memory.py --precision bf16 --out benchmarks/results/NAME.json

The request is W6 of `alpamayo-rt bench`. The prompt without navigation lacks ten of its text tokens; the
known 31 tokens are appended to it, as `Model.unguided_hand_off` does.
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
from alpamayo_rt.bench.workloads import SAMPLING, choose_workloads
from alpamayo_rt.engine.hand_off import hand_off
from alpamayo_rt.prompt.prompt import Prompt

LEFT_OUT = 10
CARD_GIB = 78.0


def without_navigation(prompt: Prompt) -> Prompt:
    """The prompt without ten of the text tokens behind its images."""
    kept = torch.ones(len(prompt), dtype=torch.bool)
    kept[-40 : -40 + LEFT_OUT] = False
    return replace(
        prompt,
        text_ids=prompt.text_ids[kept],
        ids=prompt.ids[kept],
        positions=prompt.positions[:, : int(kept.sum())],
    )


@torch.inference_mode()
def main() -> int:
    """Run it; 1 where it needs more than the card has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="alpamayo2_super")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda")
    subject = make_random_subject(
        args.family, args.precision, device, 0, lambda line: print(line, file=sys.stderr)
    )
    weights = torch.cuda.memory_allocated() / 2**30
    engine = subject.engine("graphs", device)
    (workload,) = choose_workloads(("W6",), True, None, None, None)
    request = subject.request(workload)
    plain = without_navigation(request.prompt)
    reads, waypoints = [0] * workload.candidates, request.noise.shape[1]
    room = SAMPLING.max_generate_length + workload.candidates * waypoints
    times = []
    for _ in range(args.repetitions + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        features = engine.encode_images(request.images)
        cache, logits = engine.prefill(request.prompt, features, room)
        given = (request.rule, request.uniforms)
        rollout = engine.reason(cache, logits, SAMPLING, *given, forced=request.forced)
        shared = len(request.prompt) - 40
        other, _ = engine.prefill_from(cache, shared, plain, features, room)
        engine.append(other, [0], rollout.tokens, unseen=-1)
        branches = [hand_off(c, rollout.tokens, reads, request.rule.closing, waypoints) for c in (cache, other)]
        action = engine.denoise(request.noise, workload.steps, *branches, 3.0).cpu()
        times.append((time.perf_counter() - start) * 1e3)
        del cache, other, branches
    assert bool(torch.isfinite(action).all())
    peak = torch.cuda.max_memory_allocated() / 2**30
    record = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "versions": {"torch": torch.__version__},
        "family": args.family,
        "precision": args.precision,
        "prompt_tokens": len(request.prompt),
        "weights_gib": round(weights, 2),
        "peak_gib": round(peak, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "total_ms": round(statistics.median(times[1:]), 1),
    }
    print(json.dumps(record, indent=1))
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(peak > CARD_GIB)


if __name__ == "__main__":
    sys.exit(main())

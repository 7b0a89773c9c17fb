# SPDX-License-Identifier: Apache-2.0
"""What the server adds to an inference: 16 JPEGs of 1080 × 1920 over loopback against raw frames.

    python benchmarks/serve_overhead.py --out benchmarks/results/serve_overhead_h100.json     # on a GPU
    python benchmarks/serve_overhead.py --model nano --engine eager --rounds 3                # anywhere

Server, client and the inferences that the server is compared with are in one process and one run, and
alternate, so that all see the same model, the same clocks and the same neighbours. The client sends its bytes
in one go and reads to the last byte. Without `--model` a random model of the released size is made on the GPU.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import re
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alpamayo_rt import Model, Sample
from alpamayo_rt.serving.client import Client
from alpamayo_rt.serving.clips import ClipShelf
from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.server import Server, bind

BUDGET_MS = 25.0
CAMERAS, FRAMES, HEIGHT, WIDTH = (0, 1, 2, 6), 4, 1080, 1920


def jpegs(quality: int) -> list[bytes]:
    """Sixteen photograph-like pictures: smooth shapes with grain, a few hundred kilobytes each."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(len(CAMERAS) * FRAMES):
        coarse = Image.fromarray(rng.integers(0, 256, (27, 48, 3), np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 6, (HEIGHT, WIDTH, 1))
        pixels = np.clip(np.asarray(coarse, np.float32) * 0.8 + 20 + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        out.append(file.getvalue())
    return out


def exchange(port: int, request: bytes) -> tuple[float, dict[str, float], bytes]:
    """Milliseconds from the first byte sent to the last one read; the server's own timing; the body."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        sock.sendall(request)
        got = bytearray()
        while data := sock.recv(1 << 20):
            got += data
        took = (time.perf_counter() - start) * 1e3
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), got[:400]
    timing = re.search(rb"server-timing: ([^\r]+)", head, re.IGNORECASE)
    assert timing is not None
    stages = (part.split(";dur=") for part in timing[1].decode().split(", "))
    return took, {name: float(ms) for name, ms in stages}, body


def served(model: Model) -> tuple[Server, int, threading.Thread]:
    """A server on loopback, in a thread."""
    limits = Limits()
    server = Server(lambda: model, limits, ClipShelf(0, 0), warm=None, say=lambda line: None)
    bound = bind("127.0.0.1", 0)
    port: int = bound.getsockname()[1]
    thread = threading.Thread(target=server.run, args=(bound,), daemon=True)
    thread.start()
    Client(f"http://127.0.0.1:{port}").wait_ready(60)
    return server, port, thread


def measure(model: Model, rounds: int, quality: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Alternate between the server and `Model.infer`; medians."""
    pictures = jpegs(quality)
    frames = torch.stack(
        [torch.from_numpy(np.array(Image.open(io.BytesIO(p)))).permute(2, 0, 1) for p in pictures]
    )
    xyz = torch.zeros(16, 3)
    xyz[:, 0] = 0.8 * torch.arange(-15, 1)
    rot = torch.eye(3).repeat(16, 1, 1)
    sample = Sample(frames.unflatten(0, (len(CAMERAS), FRAMES)).contiguous(), CAMERAS, xyz, rot)
    wire = {
        "images": [base64.b64encode(p).decode() for p in pictures],
        "egomotion": {"ego_history_xyz": xyz.tolist(), "ego_history_rot": rot.tolist()},
        "num_traj_samples": settings["num_candidates"],
        "num_diffusion_steps": settings["num_diffusion_steps"],
        "max_tokens": settings["max_generate_length"],
        "seed": settings["seed"],
    }
    body = json.dumps(wire).encode()
    head = (
        f"POST /v1/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    server, port, thread = served(model)
    direct: list[float] = []
    outside: list[float] = []
    stages: list[dict[str, float]] = []
    reply: dict[str, Any] = {}
    for number in range(rounds + 2):
        start = time.perf_counter()
        result = model.infer(sample, **settings)
        model.engine.synchronize()
        took = (time.perf_counter() - start) * 1e3
        total, timing, answer = exchange(port, head + body)
        reply = json.loads(answer)
        if number >= 2:  # the first ones find nothing warm
            direct.append(took)
            outside.append(total)
            stages.append(timing)
    assert result.trajectories is not None
    same = torch.equal(torch.tensor(reply["trajectories"]), result.trajectories)
    server.stop()
    thread.join(60)
    medians = {name: round(statistics.median(s[name] for s in stages), 2) for name in stages[0]}
    overhead = statistics.median(outside) - statistics.median(direct)
    paired = statistics.median(o - d for o, d in zip(outside, direct, strict=True))
    return {
        "client_ms": round(statistics.median(outside), 2),
        "direct_ms": round(statistics.median(direct), 2),
        "overhead_ms": round(overhead, 2),
        "overhead_paired_ms": round(paired, 2),
        "budget_ms": BUDGET_MS,
        "split_ms": medians,
        "body_mb": round(len(body) / 1e6, 2),
        "jpeg_kb": round(sum(map(len, pictures)) / len(pictures) / 1e3, 1),
        "answer_kb": round(len(answer) / 1e3, 1),
        "n": rounds,
        "same_trajectories": same,
    }


def the_model(args: argparse.Namespace) -> Model:
    """What `--model` names, or a random one of the released size on the GPU."""
    if args.model is not None:
        from alpamayo_rt import load

        return load(args.model, args.engine, args.precision)
    from released_model import released_model

    from alpamayo_rt.families import DEMO_FAMILY

    precision = "bf16" if args.precision == "auto" else args.precision
    return released_model(DEMO_FAMILY, args.engine, precision, say=lambda line: print(line, file=sys.stderr))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: a random model of the released size")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quality", type=int, default=80, help="of the JPEGs")
    parser.add_argument("--num-candidates", type=int, default=6)
    parser.add_argument("--num-diffusion-steps", type=int, default=10)
    parser.add_argument("--max-generate-length", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    model = the_model(args)
    settings = {
        "num_candidates": args.num_candidates,
        "num_diffusion_steps": args.num_diffusion_steps,
        "max_generate_length": args.max_generate_length,
        "seed": 0,
    }
    found = measure(model, args.rounds, args.quality, settings)
    device = model.engine.device
    record = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "engine": model.engine.name,
        "precision": model.engine.precision,
        "settings": settings,
        "results": [found],
    }
    text = json.dumps(record, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Load on a server of the demo model: what is answered, what is refused, how long it takes, and its memory.

    python benchmarks/serve_load.py --requests 2000 --clients 32 --seconds 180 --hostile 0.05 --out FILE.json
    python benchmarks/serve_load.py --half --seconds 180

A server and, before and after the load, the engine alone run in processes of their own, with one thread each.
The engine alone answers the same request, decoded, again and again: its rate is what the server is compared
with. With `--half` only good requests are sent, at half that rate.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOSTILE = ("truncated", "nan", "huge_image", "wrong_count", "slow_sender", "disconnect")
CANDIDATES, STEPS, SEED = 2, 5, 3


def request() -> dict[str, Any]:
    """The good request: a window of the demo world as 16 PNGs."""
    import torch

    from alpamayo_rt.demo.live import live_clip
    from alpamayo_rt.serving.client import request_body

    sample, _ = live_clip("world-live:0:3").read(torch.device("cpu"))
    return request_body(sample, num_traj_samples=CANDIDATES, num_diffusion_steps=STEPS, seed=SEED)


def direct(seconds: float, model_name: str) -> dict[str, float]:
    """Requests a second of the engine alone, on one thread, in this process."""
    import torch

    import alpamayo_rt
    from alpamayo_rt.demo.live import live_clip

    torch.set_num_threads(1)
    model = alpamayo_rt.load(model_name)
    sample, _ = live_clip("world-live:0:3").read(torch.device("cpu"))
    times: list[float] = []
    settings = {"num_candidates": CANDIDATES, "num_diffusion_steps": STEPS, "seed": SEED}
    model.infer(sample, **settings)
    began, cpu = time.perf_counter(), time.thread_time()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        model.infer(sample, **settings)
        times.append(time.perf_counter() - start)
    cpu = time.thread_time() - cpu
    return {
        "per_second": len(times) / sum(times),
        "median_ms": statistics.median(times) * 1e3,
        "cpu_seconds": cpu / len(times),
    }


def busiest_thread(pid: int) -> float:
    """CPU seconds of the thread of a process that has had most: the engine's."""
    ticks = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        ticks.append(int(fields[11]) + int(fields[12]))
    return max(ticks) / os.sysconf("SC_CLK_TCK")


def direct_in_a_process(seconds: float, model: str) -> dict[str, float]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--direct", str(seconds), "--model", model]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


@dataclass
class Tally:
    """What became of the requests."""

    good: Counter[str] = field(default_factory=Counter)
    hostile: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    first: str | None = None


class Load:
    """Sends requests to a server at given times."""

    def __init__(self, port: int, pid: int, body: dict[str, Any], tally: Tally):
        self._port, self._pid, self._tally = port, pid, tally
        self._body = json.dumps(body).encode()
        self._bad = {kind: _hostile(kind, body) for kind in HOSTILE}

    async def run(self, plan: list[tuple[float, str | None]], clients: int) -> float:
        """Send all; gives the seconds that it took."""
        began = time.perf_counter()
        waiting = iter(plan)

        async def client() -> None:
            for when, kind in waiting:
                await asyncio.sleep(max(0.0, began + when - time.perf_counter()))
                await self._send(kind)

        watching = asyncio.create_task(self._watch_memory(began))
        await asyncio.gather(*(client() for _ in range(clients)))
        watching.cancel()
        return time.perf_counter() - began

    async def _watch_memory(self, began: float) -> None:
        while True:
            text = Path(f"/proc/{self._pid}/status").read_text()
            self._tally.memory.append((time.perf_counter() - began, int(text.split("VmRSS:")[1].split()[0])))
            await asyncio.sleep(0.5)

    async def _send(self, kind: str | None) -> None:
        start = time.perf_counter()
        try:
            status, answer = await self._exchange(kind)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            status, answer = f"broken ({type(error).__name__})", b""
        if kind is not None:
            self._tally.hostile[f"{kind}: {status}"] += 1
            if status.startswith("5"):
                self._tally.wrong.append(f"{kind}: {status} {answer[:200]!r}")
            return
        self._tally.good[status] += 1
        if status == "200":
            self._tally.seconds.append(time.perf_counter() - start)
            found = json.dumps(json.loads(answer)["trajectories"])
            self._tally.first = self._tally.first or found
            if found != self._tally.first:
                self._tally.wrong.append("an answer that differs from the first")
        elif status != "429":
            self._tally.wrong.append(f"good: {status} {answer[:200]!r}")

    async def _exchange(self, kind: str | None) -> tuple[str, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            body = self._body if kind is None else self._bad[kind]
            length = len(body) + (1000 if kind == "truncated" else 0)
            writer.write(
                f"POST /v1/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                f"Content-Length: {length}\r\n\r\n".encode()
            )
            if kind == "slow_sender":
                for at in range(0, 50):
                    writer.write(body[at : at + 1])
                    await writer.drain()
                    await asyncio.sleep(0.1)
                return "given up", b""
            writer.write(body)
            await writer.drain()
            if kind in ("truncated", "disconnect"):
                await asyncio.sleep(random.random())
                return "given up", b""
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            answer = await reader.readexactly(int(size[1]) if size else 0)
            return head.split()[1], answer
        finally:
            writer.close()


def _hostile(kind: str, body: dict[str, Any]) -> bytes:
    from PIL import Image

    whole = json.dumps(body).encode()
    if kind == "nan":
        return json.dumps(body | {"temperature": 0.125}).replace("0.125", "NaN").encode()
    if kind == "wrong_count":
        return json.dumps(body | {"images": body["images"][:7]}).encode()
    if kind == "huge_image":
        out = io.BytesIO()
        Image.new("RGB", (12_000, 12_000)).save(out, "PNG", compress_level=9)
        return json.dumps(body | {"images": [base64.b64encode(out.getvalue()).decode()] * 16}).encode()
    return whole[: len(whole) // 2] if kind == "truncated" else whole


def _quantile(values: list[float], q: float) -> float | None:
    return round(sorted(values)[min(len(values) - 1, int(q * len(values)))] * 1e3, 1) if values else None


def measure(
    requests: int, clients: int, seconds: float, hostile: float, model: str, half: bool, direct_seconds: float
) -> dict[str, Any]:
    """Start a server, load it, end it; gives the record."""
    before = direct_in_a_process(direct_seconds, model)
    if half:
        requests, hostile = max(1, int(seconds * before["per_second"] / 2)), 0.0
    rng = random.Random(0)
    plan: list[tuple[float, str | None]] = []
    for n in range(requests):
        kind = rng.choice(HOSTILE) if rng.random() < hostile else None
        plan.append((n * seconds / requests, kind))
    command = [sys.executable, "-m", "alpamayo_rt", "serve", "--model", model, "--port", "0", "--threads", "1"]
    command += ["--deadline", "600"]  # how long requests wait is measured, not judged
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    port = 0
    for line in server.stderr:
        found = re.search(r"listening on http://127.0.0.1:(\d+)", line)
        port = int(found[1]) if found else port
        if "ready on" in line:
            break
    tally = Tally()
    body, cpu = request(), busiest_thread(server.pid)
    took = asyncio.run(Load(port, server.pid, body, tally).run(plan, clients))
    cpu = busiest_thread(server.pid) - cpu
    alive = server.poll() is None
    server.terminate()
    said = server.stderr.read()
    status = server.wait(90)
    after = direct_in_a_process(direct_seconds, model)
    rate = (before["per_second"] + after["per_second"]) / 2
    answered = tally.good["200"]
    settled = [kib for at, kib in tally.memory if at > seconds * 0.25]
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "requests": requests,
        "clients": clients,
        "seconds": round(took, 1),
        "good": dict(tally.good),
        "hostile": dict(sorted(tally.hostile.items())),
        "wrong": tally.wrong[:20],
        "server_alive": alive,
        "exit_status": status,
        "said": [line for line in said.splitlines() if "finishing" not in line][:20],
        "p50_ms": _quantile(tally.seconds, 0.5),
        "p99_ms": _quantile(tally.seconds, 0.99),
        "answered_per_second": round(answered / took, 3),
        "engine_alone_per_second": {
            "before": round(before["per_second"], 3),
            "after": round(after["per_second"], 3),
        },
        # What the engine would have answered while requests were waiting for it.
        "share_of_engine_alone": round(answered / took / rate, 3),
        # The same in CPU time of the engine's thread, which other programs on the machine do not change much.
        "cpu_seconds_per_answer": round(cpu / max(1, answered), 3),
        "cpu_seconds_alone": round((before["cpu_seconds"] + after["cpu_seconds"]) / 2, 3),
        "memory_mib": {
            "start": tally.memory[0][1] // 1024,
            "settled_min": min(settled) // 1024,
            "settled_max": max(settled) // 1024,
            "first_third": statistics.median(settled[: len(settled) // 3 or 1]) / 1024,
            "last_third": statistics.median(settled[-(len(settled) // 3 or 1) :]) / 1024,
        },
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--hostile", type=float, default=0.05)
    parser.add_argument("--half", action="store_true", help="good requests only, at half the engine's rate")
    parser.add_argument("--direct", type=float, metavar="S", help="only the engine alone, for S seconds")
    parser.add_argument("--direct-seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.direct is not None:
        print(json.dumps(direct(args.direct, args.model)))
        return
    record = measure(
        args.requests, args.clients, args.seconds, args.hostile, args.model, args.half, args.direct_seconds
    )
    text = json.dumps(record, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

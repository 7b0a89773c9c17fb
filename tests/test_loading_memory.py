# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of many shards goes through the host a shard at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from random_checkpoint import write_random_super

SHARDS, LAYERS = 20, 20
# Reads everything as loading does, and gives each tensor away as a GPU takes it: nothing stays on the host.
MEASURE = """
import sys
import threading
import torch
from alpamayo_rt.checkpoint import empty_network, load_network, open_checkpoint
register = torch.nn.Module.register_parameter
taken = []
def give_away(module, name, value):
    if value is not None and not value.is_meta:
        taken.append(value.numel() * 2 * bool(value.sum().isfinite()))
        value = torch.nn.Parameter(value.to("meta"), requires_grad=False)
    register(module, name, value)
checkpoint = open_checkpoint(sys.argv[1])
# What torch imports and allocates for such work is not the checkpoint's.
empty_network(checkpoint)
torch.ones(8, dtype=torch.bfloat16).sum().isfinite().to("meta")
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = peak = held()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.0005):
        peak = max(peak, held())
threading.Thread(target=watch, daemon=True).start()
torch.nn.Module.register_parameter = give_away
lines = []
load_network(checkpoint, torch.device("cpu"), torch.bfloat16, lines.append)
done.set()
print(sum(taken), len(lines), peak - before)
"""


def larger(raw: dict[str, Any]) -> None:
    for text in (raw["vlm_config"]["text_config"], raw["expert_config"]["llm_config"]):
        text["num_hidden_layers"] = LAYERS
    raw["vlm_config"]["text_config"]["intermediate_size"] = 24_576


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_host_memory_stays_under_two_shards(tmp_path: Path) -> None:
    folder = write_random_super(tmp_path / "checkpoint", SHARDS, change=larger)
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(sizes) == SHARDS
    assert sum(sizes) > 8 * 2 * max(sizes)  # or the bound below would say nothing
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)],
        capture_output=True, text=True, env=environment, timeout=120, check=True,
    )  # fmt: skip
    read, shards, grown = map(int, run.stdout.split())
    assert shards == SHARDS
    assert read > 0.99 * sum(sizes)
    # Nothing at all would mean that nothing was measured.
    assert max(sizes) / 8 < grown < 2 * max(sizes)

# SPDX-License-Identifier: Apache-2.0
"""`python -m alpamayo_rt.training.train`: train the demo model in slices, each ending in a loadable checkpoint.

A slice goes on from the weights in --out (or --start), and from the optimizer's state in --state where that is.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.checkpoint import load_network, open_checkpoint
from alpamayo_rt.config import ModelConfig, parse_model_config, read_json
from alpamayo_rt.model.network import Network
from alpamayo_rt.prompt.tokenizer import PromptTokenizer
from alpamayo_rt.training.drawing import DrawnExamples, again, drawn
from alpamayo_rt.training.examples import ExampleStream
from alpamayo_rt.training.forward import TrainingNetwork
from alpamayo_rt.training.muon import StackedMuon
from alpamayo_rt.training.nano_config import BACKBONE, write_skeleton
from alpamayo_rt.training.weights import initialize, save_checkpoint

# Of the actions in 1,000 windows of the training world, rounded.
STATISTICS = {"accel_mean": -0.6, "accel_std": 1.1, "curvature_mean": 0.0, "curvature_std": 0.026}
_LENGTHS = (704, 640)
_ROWS, _COLUMNS = 8, 14  # patches of an image of the world
# Of the losses of reasoning, answers and flow. Two of twenty words name the cause, the others are easy.
_WEIGHTS = (4.0, 2.0, 1.0)
_POOL = 100  # drawn batches that wait to be trained on again
_ACTION_LIMIT = 5.0  # normalized actions beyond it are rounding noise at standstill


@dataclass(frozen=True)
class Slice:
    """Settings of one slice of training."""

    minutes: float
    batch: int
    rate: float
    warmup: int
    final: float
    noises: int
    seed: int
    uses: int
    compiled: bool
    workers: int


def main() -> None:
    """Train for one slice."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument(
        "--out", type=Path, required=True, help="checkpoint folder; gone on with if it has weights"
    )
    parser.add_argument("--state", type=Path, help="file for the optimizer's state between slices")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate of matrices (Muon)")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--final", type=float, default=1.0, help="share of the rate left at the slice's end")
    parser.add_argument("--noises", type=int, default=2, help="flow-matching draws an example")
    parser.add_argument("--uses", type=int, default=3, help="times that a drawn batch is trained on")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the world and of the draws; another one a slice"
    )
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--compile", action="store_true", dest="compiled")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args()
    settings = Slice(
        a.minutes, a.batch, a.rate, a.warmup, a.final, a.noises, a.seed, a.uses, a.compiled, a.workers
    )
    train(a.out, a.state, settings, torch.device(a.device))


def train(out: Path, state: Path | None, settings: Slice, device: torch.device) -> None:
    """Run one slice and leave a checkpoint in `out` and a line in its log."""
    torch.manual_seed(settings.seed)
    torch.set_float32_matmul_precision("high")
    config, tokenizer, network = _start(out, device, settings.seed)
    statistics = network.action_space
    unicycle = Unicycle(
        config.action_space,
        torch.stack([statistics.accel_mean, statistics.curvature_mean]),
        torch.stack([statistics.accel_std, statistics.curvature_std]),
    )
    model = TrainingNetwork(network, config, tokenizer.image_pad, settings.compiled)
    optimizers = _optimizers(network, settings)
    step = _restore(state, optimizers, device)
    warmup = 0 if step else settings.warmup
    stream = ExampleStream(config, tokenizer, settings.seed, settings.batch, _LENGTHS)
    loader = DataLoader(
        stream, batch_size=None, num_workers=settings.workers, prefetch_factor=4 if settings.workers else None
    )
    started, seen, first = time.monotonic(), 0, step
    lap = started
    log: dict[str, float] = {}
    for drawn_examples in again(drawn(loader, device), settings.uses, _POOL, settings.seed):
        elapsed = (time.monotonic() - started) / 60 / settings.minutes
        share = min(1.0, (step - first + 1) / (warmup + 1)) * _decay(elapsed, settings.final)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * share
        losses = training_step(model, unicycle, drawn_examples, settings.noises, optimizers)
        step, seen = step + 1, seen + settings.batch
        if step % 100 == 0 or step == first + 1:
            values = {name: float(value) for name, value in losses.items()}
            log = {k: 0.8 * log.get(k, v) + 0.2 * v for k, v in values.items()}
            now = time.monotonic()
            rate, lap = min(100 * settings.batch, seen) / (now - lap), now
            print(
                f"step {step} {rate:.0f}/s " + " ".join(f"{k} {v:.4f}" for k, v in values.items()), flush=True
            )
        if elapsed >= 1:
            break
    save_checkpoint(network, config, out)
    if state is not None:
        torch.save({"step": step, "optimizers": [o.state_dict() for o in optimizers]}, state)
    record = {
        "settings": asdict(settings),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "minutes": round((time.monotonic() - started) / 60, 2),
        "steps": step - first,
        "windows": seen,
        "losses": {k: round(v, 4) for k, v in log.items()},
    }
    with (out / "training.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def training_step(
    model: TrainingNetwork,
    unicycle: Unicycle,
    drawn_examples: DrawnExamples,
    noises: int,
    optimizers: list[torch.optim.Optimizer],
) -> dict[str, torch.Tensor]:
    """One step on one batch; returns the losses."""
    examples = drawn_examples.examples
    device = examples.history_xyz.device
    batch = len(examples.history_xyz)
    with torch.no_grad():
        actions = unicycle.inverse(
            examples.history_xyz, examples.history_rot, examples.future_xyz, examples.future_rot
        ).clamp(-_ACTION_LIMIT, _ACTION_LIMIT)
    # CPUs are many times slower in bfloat16.
    on_gpu = device.type == "cuda"
    patches = drawn_examples.patches if on_gpu else drawn_examples.patches.float()
    with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
        features = model.vision(patches, _ROWS, _COLUMNS)
        words, right, cache = model.language(examples.driving, features, examples.shown)
        answers, right_answers, _ = model.language(examples.asking, features, examples.shown)
        ends = model.ends(examples.driving)
        draws = [
            model.flow(actions, torch.randn_like(actions), _times(batch, device), cache, *ends)
            for _ in range(noises)
        ]
        flow = torch.stack(draws).mean()
        loss = _WEIGHTS[0] * words + _WEIGHTS[1] * answers + _WEIGHTS[2] * flow
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {
        "words": words.detach(), "right": right, "answers": answers.detach(),
        "right_answers": right_answers, "flow": flow.detach(),
    }  # fmt: skip


def _times(batch: int, device: torch.device) -> torch.Tensor:
    """Flow times: uniform, evenly spread over the batch so that the loss is less noisy."""
    spread = (torch.arange(batch, device=device) + torch.rand(batch, device=device)) / batch
    return spread[torch.randperm(batch, device=device)]


def _decay(elapsed: float, final: float) -> float:
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(elapsed, 1.0)))


def _start(out: Path, device: torch.device, seed: int) -> tuple[ModelConfig, PromptTokenizer, Network]:
    """The network of the checkpoint in `out`, or a fresh one in a new folder; float32, with gradients."""
    if not (out / "config.json").exists():
        write_skeleton(out, STATISTICS)
    if (out / "model.safetensors.index.json").exists():
        checkpoint = open_checkpoint(str(out))
        config, network = checkpoint.config, load_network(checkpoint, device, torch.float32)
    else:
        config = parse_model_config(
            out, read_json(out / "config.json"), read_json(out / BACKBONE / "config.json")
        )
        network = Network(config)
        initialize(network, seed)
        network.to(device)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return config, PromptTokenizer(out / BACKBONE, config), network.train()


def _optimizers(network: Network, settings: Slice) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head, norms and biases."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        inner = parameter.dim() == 2 and not any(
            part in name for part in ("embed", "lm_head", "action_out_proj")
        )
        (matrices if inner else others).append(parameter)
    muon = StackedMuon(matrices, lr=settings.rate)
    adam = torch.optim.AdamW(others, lr=settings.rate * 0.1, betas=(0.9, 0.95), weight_decay=0.01)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return [muon, adam]


def _restore(state: Path | None, optimizers: list[torch.optim.Optimizer], device: torch.device) -> int:
    """Load the optimizers' state where there is one; returns the step that was reached."""
    if state is None or not state.exists():
        return 0
    saved = torch.load(state, map_location=device, weights_only=True)
    for optimizer, content in zip(optimizers, saved["optimizers"], strict=True):
        bases = [group["base"] for group in optimizer.param_groups]
        optimizer.load_state_dict(content)
        for group, base in zip(optimizer.param_groups, bases, strict=True):
            group["base"] = base
    return int(saved["step"])


if __name__ == "__main__":
    main()

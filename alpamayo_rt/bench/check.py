# SPDX-License-Identifier: Apache-2.0
"""Is what was timed right? The engine and the eager engine, both against a float32 pass over the same weights.

The float32 pass is the eager engine over a network that is there layer by layer (`streamed_network`), and so is
the eager engine's own pass in the engine's precision. Neither needs the engine: it is watched first, and may be
gone when they run, so that they fit where it filled the memory. No second model is written down here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from alpamayo_rt.bench.random_model import streamed_network
from alpamayo_rt.bench.weights import Weights
from alpamayo_rt.bench.workloads import SAMPLING, Request
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.engine.hand_off import hand_off
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.quantization.parts import parts_of
from alpamayo_rt.verify.rows import relative_l2

BOUND = 1.25
"""How much farther from the float32 pass than the eager engine an engine may be."""
FLOOR = 1e-5
"""Distances below this are float32's own rounding in another order, and pass."""
TIMES = (0.0, 0.5, 0.9)
"""Of the flow, at which velocities are compared."""


@dataclass(frozen=True)
class Observed:
    """What an engine gave for the teacher-forced tokens of a request; on the CPU.

    Attributes:
        vision: image tokens and DeepStack features, (1 + taps, tokens, out).
        prefill_logits: (V,).
        keys: (layers, kv heads, slots, head dim), prompt, then the sequences' tokens.
        values: the same shape.
        velocity: (times, K, W, 2); None where the engine runs all steps inside.
        action: (K, W, 2), after all steps.
    """

    vision: torch.Tensor
    prefill_logits: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    velocity: torch.Tensor | None
    action: torch.Tensor


@torch.inference_mode()
def observe(engine: Engine, request: Request, step_by_step: bool) -> Observed:
    """Run the request with its tokens forced and keep what every stage gave.

    Args:
        engine: any.
        request: what it runs.
        step_by_step: decode as a timed run does; otherwise all tokens of a sequence at once.
    """
    w, waypoints = request.workload, engine.config.action_space.n_waypoints
    features = engine.encode_images(request.images, None)
    vision = _stacked(features)
    cache, logits = engine.prefill(request.prompt, features, request.room(engine.config))
    logits = logits.float().cpu()
    said = request.said()
    if step_by_step:
        engine.reason(cache, logits.to(engine.device), SAMPLING, request.rule, request.uniforms, request.forced)
    else:
        engine.append(cache, range(w.sequences), said)
    handed = hand_off(cache, said, request.reads(), request.rule.closing, waypoints)
    tails = [cache.sequence_slots(s)[cache.prompt_length :] for s in range(w.sequences)]
    slots = torch.cat([cache.sequence_slots(0)[: cache.prompt_length], *tails]).to(cache.keys.device)
    keys, values = cache.keys[:, :, slots].cpu(), cache.values[:, :, slots].cpu()
    velocity = None
    if not engine.whole_flow:
        field = engine.velocity_field(handed)
        generator = torch.Generator().manual_seed(2)
        velocity = torch.stack(
            [
                field(
                    torch.randn(request.noise.shape, generator=generator).to(engine.device),
                    torch.tensor(time, device=engine.device),
                )
                .float()
                .cpu()
                for time in TIMES
            ]
        )
    action = engine.denoise(request.noise, w.steps, handed).float().cpu()
    return Observed(vision, logits, keys, values, velocity, action)


def _stacked(features: VisionFeatures) -> torch.Tensor:
    return torch.stack([features.embeds, *features.deepstack]).cpu()


def distances(found: Observed, reference: Observed) -> dict[str, Any]:
    """Relative L2 distances from a reference; of the cache the worst layer's keys or values."""
    layers = [
        max(
            relative_l2(found.keys[i], reference.keys[i]),
            relative_l2(found.values[i], reference.values[i]),
        )
        for i in range(len(reference.keys))
    ]
    out: dict[str, Any] = {
        "vision": relative_l2(found.vision, reference.vision),
        "prefill_logits": relative_l2(found.prefill_logits, reference.prefill_logits),
        "cache": max(layers),
    }
    if found.velocity is not None and reference.velocity is not None:
        out["velocity"] = relative_l2(found.velocity, reference.velocity)
    out["action"] = relative_l2(found.action, reference.action)
    out["cache_worst_layer"] = layers.index(max(layers))
    return out


QUANTITIES = ("vision", "prefill_logits", "cache", "velocity", "action")


@contextmanager
def _full_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Watched:
    """What is left of an engine for its check: nothing of it on the device.

    Attributes:
        observed: what it gave, as it was timed.
        config: sizes of its network.
        device: where it ran.
        dtype: of all that is not narrowed.
        precision: what that is called.
    """

    observed: Observed
    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    precision: str


def watch(engine: Engine, request: Request, say: Callable[[str], None]) -> Watched:
    """Run an engine as it was timed and keep what its check needs; `say` is told what is going on."""
    say(f"{engine.name} {engine.precision}, as timed")
    observed = observe(engine, request, step_by_step=True)
    return Watched(observed, engine.config, engine.device, engine.dtype, engine.precision)


def check(watched: Watched, weights: Weights, request: Request, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's `check` of an engine.

    Args:
        watched: of the engine, which need not be there any more.
        weights: of its network, as they were before any narrowing.
        request: what it ran.
        say: told what is going on.

    Returns:
        The engine's distances; `eager`: those of the eager engine in the same precision, and for a narrowed one
        `eager_bf16`; `ratio` of the first to the second; `passed`: no distance is above `bound` times the eager
        engine's (or all but nothing).
    """
    with _full_float32():
        say("float32 pass, layer by layer")
        reference = observe(_streamed(watched, weights, torch.float32, "fp32"), request, step_by_step=False)
    found = {}
    precisions = {"eager": (watched.dtype, watched.precision)}
    if parts_of(watched.precision)[1]:
        precisions["eager_bf16"] = (torch.bfloat16, "bf16")
    for name, (dtype, precision) in precisions.items():
        say(f"eager {precision}, layer by layer")
        eager = _streamed(watched, weights, dtype, precision)
        found[name] = distances(observe(eager, request, step_by_step=False), reference)
    return judge(distances(watched.observed, reference), found)


def judge(own: dict[str, Any], others: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put the engine's distances beside those of the eager engine, and decide."""
    eager = others["eager"]
    measured = [name for name in QUANTITIES if name in own]
    ratio = {name: own[name] / eager[name] if eager[name] > 0 else None for name in measured}
    failed = [name for name in measured if not own[name] <= max(BOUND * eager[name], FLOOR)]
    return own | others | {"ratio": ratio, "bound": BOUND, "passed": not failed, "failed": failed}


def _streamed(watched: Watched, weights: Weights, dtype: torch.dtype, precision: str) -> EagerEngine:
    config, device = watched.config, watched.device
    network = streamed_network(config, weights, device, dtype, precision)
    return EagerEngine(network, config, device, dtype, precision)

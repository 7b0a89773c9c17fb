# SPDX-License-Identifier: Apache-2.0
"""One request through an engine, as `Model.infer` takes it, with its tokens forced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.bench.workloads import SAMPLING, Request
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.base import FINISHED, Engine, Rollout
from alpamayo_rt.engine.hand_off import HandOff, hand_off
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.errors import EngineError
from alpamayo_rt.model.network import Network
from alpamayo_rt.prompt.prompt import Images, Prompt, prepare_images

Mark = Callable[[str], None]
"""Told the name of each stage when it ends."""


def _unmarked(stage: str) -> None:
    pass


def unicycle_of(network: Network, config: ModelConfig) -> Unicycle:
    """Integration with the network's own statistics, on the CPU."""
    space = network.action_space
    return Unicycle(
        config.action_space,
        torch.stack([space.accel_mean, space.curvature_mean]).cpu(),
        torch.stack([space.accel_std, space.curvature_std]).cpu(),
    )


@dataclass
class Pipeline:
    """A request on an engine.

    Attributes:
        engine: the stages.
        unicycle: actions → trajectories.
        request: what runs.
        window: counts the runs, so that each sees new frames.
    """

    engine: Engine
    unicycle: Unicycle
    request: Request
    window: int = field(default=0, init=False)

    def from_frames(self) -> torch.Tensor:
        """Raw frames on the host → trajectories (K, W, 3) on the host."""
        images = prepare_images(self.request.sample, self.engine.config, self.engine.device)
        return self._drive(images, self.request.prompt_of(images), _unmarked)

    def from_patches(self, mark: Mark = _unmarked) -> torch.Tensor:
        """Patches on the device → trajectories (K, W, 3) on the host."""
        return self._drive(self.request.images, self.request.prompt, mark)

    def reach_hand_off(self, mark: Mark = _unmarked) -> tuple[HandOff, torch.Tensor, Rollout]:
        """What the expert reads, the prompt's last logits, and what was said."""
        return self._until_hand_off(self.request.images, self.request.prompt, mark)

    def _drive(self, images: Images, prompt: Prompt, mark: Mark) -> torch.Tensor:
        handed, _, _ = self._until_hand_off(images, prompt, mark)
        action = self.engine.denoise(self.request.noise, self.request.workload.steps, handed)
        mark("expert")
        xyz, rot = self.request.sample.history_xyz, self.request.sample.history_rot
        assert xyz is not None
        assert rot is not None
        return self.unicycle.integrate(action.cpu(), xyz, rot)[0]

    def _until_hand_off(
        self, images: Images, prompt: Prompt, mark: Mark
    ) -> tuple[HandOff, torch.Tensor, Rollout]:
        request, workload, engine = self.request, self.request.workload, self.engine
        self.window += 1
        features = engine.encode_images(images, request.frame_ids(self.window))
        mark("vision")
        waypoints = engine.config.action_space.n_waypoints
        room = workload.sequences * SAMPLING.max_generate_length + workload.candidates * waypoints
        cache, logits = engine.prefill(prompt, features, room)
        mark("prefill")
        rollout = engine.reason(cache, logits, SAMPLING, request.rule, request.uniforms, forced=request.forced)
        mark("decode")
        reads = list(range(workload.candidates)) if workload.multi_seq else [0] * workload.candidates
        return hand_off(cache, rollout.tokens, reads, request.rule.closing, waypoints), logits, rollout


def check_rollout(request: Request, rollout: Rollout, cache: KvCache, prompt_tokens: int) -> None:
    """Refuse to time something else than the workload.

    Raises:
        EngineError: the engine did not say what it was made to say, or the cache holds something else.
    """
    wanted, passes = request.said(), request.workload.passes
    if rollout.tokens != wanted or set(rollout.stop_reasons) != {FINISHED}:
        lengths = sorted({len(tokens) for tokens in rollout.tokens})
        raise EngineError(
            f"workload {request.workload.name}: sequences of {lengths} tokens that ended with "
            f"{sorted(set(rollout.stop_reasons))}, expected the forced {passes}, finished"
        )
    held = len(cache.sequence_slots(0))
    if held != prompt_tokens + passes:
        raise EngineError(
            f"workload {request.workload.name}: {held} tokens of a sequence in the cache, "
            f"expected {prompt_tokens} + {passes}"
        )

# SPDX-License-Identifier: Apache-2.0
"""One request through an engine, as `Model.infer` takes it, with its tokens forced."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from alpamayo_rt.action.unicycle import Unicycle
from alpamayo_rt.bench.workloads import SAMPLING, Request
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.base import FINISHED, Engine, Rollout
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.errors import EngineError
from alpamayo_rt.model.network import Network
from alpamayo_rt.prompt.prompt import Images, Prompt, prepare_images

Mark = Callable[[str], None]
"""Told the name of each stage when it ends."""
PromptOf = Callable[[Images], Prompt]


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


_PIPELINES = itertools.count()
_WINDOWS = 1_000_000
"""More than a pipeline will ever show: its frames must not be those of one before, which an engine may keep."""


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
    window: int = field(default_factory=lambda: next(_PIPELINES) * _WINDOWS, init=False)

    def __post_init__(self) -> None:
        given = self.request.images
        self._images = Images(given.pixel_values.to(self.engine.patch_dtype), given.grid)

    def from_frames(self) -> torch.Tensor:
        """Raw frames on the host → trajectories (K, W, 3) on the host."""
        engine = self.engine
        images = prepare_images(self.request.sample, engine.config, engine.device, engine.patch_dtype)
        return self._trajectories(images, self.request.prompt_of, _unmarked)

    def from_patches(self, mark: Mark = _unmarked) -> torch.Tensor:
        """Patches on the device → trajectories (K, W, 3) on the host."""
        return self._trajectories(self._images, self._prompt, mark)

    def check(self) -> None:
        """Run once and see that it is the workload that runs.

        Raises:
            EngineError: the engine did not say what it was made to say, or the cache holds something else.
        """
        _, rollout, cache = self._run(self._images, self._prompt, _unmarked)
        check_rollout(self.request, rollout, cache, len(self.request.prompt))

    def _prompt(self, images: Images) -> Prompt:
        return self.request.prompt

    def _trajectories(self, images: Images, prompt_of: PromptOf, mark: Mark) -> torch.Tensor:
        action, *_ = self._run(images, prompt_of, mark)
        xyz, rot = self.request.sample.history_xyz, self.request.sample.history_rot
        assert xyz is not None
        assert rot is not None
        # As `Model.infer` does: what needs no action is done while the device may still be busy.
        start = self.unicycle.start(xyz, rot)
        return self.unicycle.integrate_from(start, action.cpu())[0]

    def _run(self, images: Images, prompt_of: PromptOf, mark: Mark) -> tuple[torch.Tensor, Rollout, KvCache]:
        """Normalized actions, what was said, and the cache."""
        request, workload, engine = self.request, self.request.workload, self.engine
        self.window += 1
        features = engine.encode_for_prefill(images, request.frame_ids(self.window))
        mark("vision")
        cache, logits = engine.prefill(prompt_of(images), features, request.room(engine.config))
        mark("prefill")
        rollout, action = engine.drive(
            cache, logits, SAMPLING, request.rule, request.uniforms, request.reads(), request.noise,
            workload.steps, mark, forced=request.forced,
        )  # fmt: skip
        return action, rollout, cache


def check_rollout(request: Request, rollout: Rollout, cache: KvCache, prompt_tokens: int) -> None:
    """Refuse to time something else than the workload.

    Raises:
        EngineError: see `Pipeline.check`.
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

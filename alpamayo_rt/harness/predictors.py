# SPDX-License-Identifier: Apache-2.0
"""What is evaluated: a model on an engine, or a baseline that needs none. Both answer a situation alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from alpamayo_rt.action.unicycle import Unicycle, yaw_of
from alpamayo_rt.config import ActionSpaceConfig
from alpamayo_rt.errors import InputError
from alpamayo_rt.evaluation.baselines import constant_rates, history_rates
from alpamayo_rt.evaluation.clip_metrics import off_bounds
from alpamayo_rt.harness.plan import BASELINE, EvalPlan
from alpamayo_rt.harness.sources import Situation
from alpamayo_rt.inference import Model
from alpamayo_rt.prompt.prompt import prepare_images
from alpamayo_rt.sample.sample import PreparedImages, Sample

BASELINES = ("constant-velocity", "constant-turn-rate")


@dataclass(frozen=True)
class Prediction:
    """K trajectories `xy` (K, W, 2) and `heading` (K, W), float64; words, if there are any; figures and
    times.
    """

    xy: np.ndarray
    heading: np.ndarray
    reasoning: list[str] = field(default_factory=list)
    stop_reasons: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)


class Predictor(Protocol):
    """Answers situations, one at a time."""

    needs_images: bool

    def prepare(self, situation: Situation) -> Situation:
        """The part that needs no accelerator; by any thread, ahead of its time."""
        ...

    def predict(self, situation: Situation, seed: int) -> Prediction:
        """The rest; always by the same thread."""
        ...

    def header(self) -> dict[str, Any]:
        """What `run.json` says about how the answers were made."""
        ...


class ModelPredictor:
    """A loaded model with the settings of the run."""

    needs_images = True

    def __init__(self, model: Model, plan: EvalPlan, header: dict[str, Any]):
        self.model, self.plan, self._header = model, plan, header

    def prepare(self, situation: Situation) -> Situation:
        """Cut the frames into patches on the CPU, where they are, so that the accelerator need not wait for
        that.
        """
        sample = situation.sample
        assert sample is not None
        if sample.frames is None:
            return situation
        images = prepare_images(sample, self.model.config, torch.device("cpu"))
        patches = PreparedImages(images.pixel_values, images.grid)
        ready = Sample(
            None,
            sample.camera_indices,
            sample.history_xyz,
            sample.history_rot,
            sample.navigation,
            prepared=patches,
        )
        return replace(situation, sample=ready)

    def predict(self, situation: Situation, seed: int) -> Prediction:
        """Run the model."""
        assert situation.sample is not None
        result = self.model.infer(situation.sample, seed=seed, **self.plan.inference())
        assert result.trajectories is not None
        assert result.rotations is not None
        space = self.model.config.action_space
        lengths = [len(tokens) for tokens in result.generated_token_ids]
        return Prediction(
            result.trajectories[..., :2].double().numpy(),
            yaw_of(result.rotations).double().numpy(),
            result.reasoning,
            result.stop_reasons,
            {
                "off_bounds": off_bounds(result.actions, space.accel_bounds, space.curvature_bounds),
                "reasoning_tokens": float(np.mean(lengths)),
            },
            result.milliseconds,
        )

    def header(self) -> dict[str, Any]:
        """Model, engine, precision, device, versions."""
        return self._header


class BaselinePredictor:
    """Goes on as the history did; its one trajectory counts as every candidate."""

    needs_images = False

    def __init__(self, name: str, plan: EvalPlan, header: dict[str, Any]):
        if name not in BASELINES:
            expected = ", ".join(BASELINE + known for known in BASELINES)
            raise InputError(f"--model: {BASELINE}{name}, expected {expected}")
        self.name, self.plan = name, plan
        self._header = {**header, "model": {"name": BASELINE + name}, "engine": "none", "precision": "fp64"}
        # Only the speed at t0 is asked of the action space; its weights are those of every released checkpoint.
        self._unicycle = Unicycle(_SPACE, torch.zeros(2), torch.ones(2))

    def prepare(self, situation: Situation) -> Situation:
        """Nothing to do."""
        return situation

    def predict(self, situation: Situation, seed: int) -> Prediction:
        """One trajectory, K times."""
        speed, accel, turn = history_rates(self._unicycle, situation.history_xyz, situation.history_rot)
        if self.name == "constant-velocity":
            accel = turn = 0.0
        points, dt = len(situation.future_xy), _SPACE.dt
        xy = constant_rates(speed, accel, turn, points, dt)
        heading = turn * dt * np.arange(1, points + 1)
        k = self.plan.num_candidates
        return Prediction(np.repeat(xy[None], k, 0), np.repeat(heading[None], k, 0))

    def header(self) -> dict[str, Any]:
        """The baseline's name and the versions."""
        return self._header


_SPACE = ActionSpaceConfig(
    n_waypoints=64, dt=0.1, accel_mean=0.0, accel_std=1.0, curvature_mean=0.0, curvature_std=1.0,
    accel_bounds=(-9.8, 9.8), curvature_bounds=(-0.33, 0.33), a_lambda=1e-4, a_ridge=1e-4, kappa_lambda=1e-4,
    kappa_ridge=1e-4, v_lambda=1e-6, v_ridge=1e-4, theta_lambda=1e-6, theta_ridge=1e-8,
)  # fmt: skip


def make_predictor(plan: EvalPlan, progress: Callable[[str], None] | None = None) -> Predictor:
    """Load what the plan names.

    Raises:
        ModelError: the checkpoint cannot be used.
        EngineError: engine, precision or device is not available here.
        InputError: no such baseline.
    """
    from alpamayo_rt.provenance import run_header, versions

    if plan.baseline is not None:
        return BaselinePredictor(plan.baseline, plan, {"device": "cpu", "versions": versions()})
    from alpamayo_rt.loading import load

    files: dict[str, Any] = dict(plan.engine_files)
    model = load(
        plan.model, plan.engine, plan.precision, plan.device, progress=progress, parts=plan.parts, **files
    )
    return ModelPredictor(model, plan, run_header(model))

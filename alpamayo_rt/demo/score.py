# SPDX-License-Identifier: Apache-2.0
"""Scores a model on clips of the demo world: what it says and where it drives, also with its eyes shut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alpamayo_rt.demo.arrays import NAVIGATION
from alpamayo_rt.demo.simulate import simulate
from alpamayo_rt.demo.truth import branch_of, junction, navigation
from alpamayo_rt.demo.words import LIGHT_QUESTION, cause_of
from alpamayo_rt.demo.world import World
from alpamayo_rt.evaluation.baselines import constant_rates, fan, history_rates
from alpamayo_rt.evaluation.metrics import ade
from alpamayo_rt.inference import Model
from alpamayo_rt.result import Result
from alpamayo_rt.sample.sample import Sample

CANDIDATES = 6
_TRAINING_CLIPS = 300


def acceleration_quantiles(seed: int) -> list[float]:
    """Six quantiles, each in the middle of a sixth, of the mean acceleration over 6.4 s in training clips."""
    mean = []
    for index in range(_TRAINING_CLIPS):
        scene = simulate("train", seed, index)
        now = int(scene.t0)
        mean.append((scene.ego[now + 64, 3] - scene.ego[now, 3]) / 6.4)
    return [float(q) for q in np.quantile(mean, (np.arange(CANDIDATES) + 0.5) / CANDIDATES)]


def score_clip(model: Model, world: World, index: int, accels: list[float]) -> dict[str, Any]:
    """Everything measured on the own window of one clip; JSON values, errors in metres.

    The seed of every inference is the clip's number; all else is the runtime's default.
    """
    sample, truth = world.sample(index)
    future = truth["future_xyz"]
    assert sample.history_xyz is not None
    assert sample.history_rot is not None

    def drive(**changes: Any) -> Result:
        return model.infer(sample.replaced(**changes), num_candidates=CANDIDATES, seed=index)

    assert sample.frames is not None
    result = drive()
    black = drive(frames=torch.zeros_like(sample.frames))
    standing = drive(
        history_xyz=sample.history_xyz[-1:].expand_as(sample.history_xyz),
        history_rot=sample.history_rot[-1:].expand_as(sample.history_rot),
    )
    assert standing.actions is not None
    # What the model chose for a standing vehicle, carried out at the true speed: else the wrong start alone
    # would make the error.
    chosen = model.unicycle.normalize(standing.actions)
    frozen, _ = model.unicycle.integrate(chosen, sample.history_xyz, sample.history_rot)
    out: dict[str, Any] = {
        "clip": world.clip_id(index),
        "index": index,
        "cause": truth["cause"],
        "reasoning": result.reasoning[0],
        "named": cause_of(result.reasoning[0]),
        "ade": _ade(result, future),
        "black_named": cause_of(black.reasoning[0]),
        "black_ade": _ade(black, future),
        "frozen_ade": _rounded(frozen, future),
        "steady_ade": _ade(drive(**_steady(sample)), future),
        # Every camera's pictures under the next camera's name.
        "shuffled_ade": _ade(drive(frames=sample.frames.roll(1, 0)), future),
    }
    ahead = truth["junction"]
    v0, accel, turn = history_rates(model.unicycle, sample.history_xyz, sample.history_rot)
    lines = [] if ahead is None or sample.navigation is None else list(ahead["branches"].values())
    out["constant_velocity"] = float(ade(constant_rates(v0, 0.0, 0.0)[None], future)[0])
    out["constant_turn_rate"] = float(ade(constant_rates(v0, accel, turn)[None], future)[0])
    out["fan_ade"] = ade(fan(v0, turn, accels, lines), future).tolist()
    if ahead is not None and sample.navigation is not None:
        branches = ahead["branches"]
        if ahead["reaches_branch"]:
            out["branch"] = ahead["branch"]
            out["branches"] = _branches(result, branches)
        other = other_branch(world, index)
        if other is not None:
            scene = world.scene(index)
            out["swapped_branch"] = other
            text = navigation(scene, int(scene.t0), other)
            out["swapped_branches"] = _branches(drive(navigation=text), branches)
    for item in truth["questions"]:
        if item["question"] == LIGHT_QUESTION:
            asked = Sample(sample.frames, sample.camera_indices, question=item["question"])
            out["light"] = item["answer"]
            out["light_answer"] = model.infer(asked, seed=index).answer
    return out


def other_branch(world: World, index: int) -> str | None:
    """A branch that clip `index` was not sent into but whose driver, told so at t0, would clearly reach.

    Found by driving the clip on from t0 with the other text; None where there is none.
    """
    scene = world.scene(index)
    for turned in (1, 2) if index % 2 else (2, 1):
        name = NAVIGATION[(int(scene.navigation) + turned) % 3]
        driven = world.rerouted(index, name)
        reached = None if driven is None else junction(driven, int(scene.t0))
        if reached is not None and reached["reaches_branch"]:
            return name
    return None


def _steady(sample: Sample) -> dict[str, torch.Tensor]:
    """A history of driving on straight at the present speed: what changed before is gone."""
    assert sample.history_xyz is not None
    assert sample.history_rot is not None
    steps = torch.arange(1 - len(sample.history_xyz), 1)[:, None]
    last = sample.history_xyz[-1] - sample.history_xyz[-2]
    return {
        "history_xyz": sample.history_xyz[-1] + steps * last,
        "history_rot": sample.history_rot[-1:].expand_as(sample.history_rot),
    }


def _ade(result: Result, future: np.ndarray) -> list[float]:
    assert result.trajectories is not None
    return _rounded(result.trajectories, future)


def _rounded(trajectories: torch.Tensor, future: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in ade(trajectories.numpy(), future)]


def _branches(result: Result, branches: dict[str, np.ndarray]) -> list[str | None]:
    assert result.trajectories is not None
    return [branch_of(candidate, branches) for candidate in result.trajectories.numpy()]

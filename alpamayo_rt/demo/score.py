# SPDX-License-Identifier: Apache-2.0
"""Scores a model on clips of the demo world: what it says and where it drives, also with its eyes shut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from alpamayo_rt.demo.arrays import NAVIGATION
from alpamayo_rt.demo.simulate import simulate
from alpamayo_rt.demo.truth import branch_of, navigation
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

    def drive(frames: torch.Tensor | None = None, frozen: bool = False, branch: str | None = None) -> Result:
        xyz, rot = sample.history_xyz, sample.history_rot
        if frozen:
            assert xyz is not None
            assert rot is not None
            xyz, rot = xyz[-1:].expand_as(xyz), rot[-1:].expand_as(rot)
        scene = world.scene(index)
        text = sample.navigation if branch is None else navigation(scene, int(scene.t0), branch)
        shown = sample.frames if frames is None else frames
        asked = Sample(shown, sample.camera_indices, xyz, rot, navigation=text)
        return model.infer(asked, num_candidates=CANDIDATES, seed=index)

    assert sample.frames is not None
    result = drive()
    black = drive(torch.zeros_like(sample.frames))
    out: dict[str, Any] = {
        "clip": world.clip_id(index),
        "index": index,
        "cause": truth["cause"],
        "reasoning": result.reasoning[0],
        "named": cause_of(result.reasoning[0]),
        "ade": _ade(result, future),
        "black_named": cause_of(black.reasoning[0]),
        "black_ade": _ade(black, future),
        "frozen_ade": _ade(drive(frozen=True), future),
        # Every camera's pictures under the next camera's name.
        "shuffled_ade": _ade(drive(sample.frames.roll(1, 0)), future),
    }
    junction = truth["junction"]
    v0, accel, turn = history_rates(model.unicycle, sample.history_xyz, sample.history_rot)
    lines = [] if junction is None or sample.navigation is None else list(junction["branches"].values())
    out["constant_velocity"] = float(ade(constant_rates(v0, 0.0, 0.0)[None], future)[0])
    out["constant_turn_rate"] = float(ade(constant_rates(v0, accel, turn)[None], future)[0])
    out["fan_ade"] = ade(fan(v0, turn, accels, lines), future).tolist()
    if junction is not None and junction["reaches_branch"] and sample.navigation is not None:
        branches, named = junction["branches"], junction["branch"]
        other = NAVIGATION[(NAVIGATION.index(named) + 1 + index % 2) % 3]
        out["branch"], out["swapped_branch"] = named, other
        out["branches"] = _branches(result, branches)
        out["swapped_branches"] = _branches(drive(branch=other), branches)
    for item in truth["questions"]:
        if item["question"] == LIGHT_QUESTION:
            asked = Sample(sample.frames, sample.camera_indices, question=item["question"])
            out["light"] = item["answer"]
            out["light_answer"] = model.infer(asked, seed=index).answer
    return out


def _ade(result: Result, future: np.ndarray) -> list[float]:
    assert result.trajectories is not None
    return [round(float(x), 4) for x in ade(result.trajectories.numpy(), future)]


def _branches(result: Result, branches: dict[str, np.ndarray]) -> list[str | None]:
    assert result.trajectories is not None
    return [branch_of(candidate, branches) for candidate in result.trajectories.numpy()]

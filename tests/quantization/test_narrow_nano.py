# SPDX-License-Identifier: Apache-2.0
"""The trained demo model drives with narrow weights about as it does in bfloat16."""

from __future__ import annotations

from statistics import mean

import pytest

from alpamayo_rt import load
from alpamayo_rt.demo.live import live_clip
from alpamayo_rt.evaluation.baselines import constant_rates, history_rates
from alpamayo_rt.evaluation.metrics import ade

CLIPS = 4


@pytest.mark.slow
def test_nano_drives_with_narrow_weights() -> None:
    models = {precision: load("nano", "eager", precision, "cpu") for precision in ("bf16", "fp8", "int4")}
    errors: dict[str, list[float]] = {name: [] for name in (*models, "straight on")}
    for number in range(CLIPS):
        clip = live_clip(f"world-live:2026:{number}")
        sample, future = clip.read(models["bf16"].engine.device)
        for name, model in models.items():
            result = model.infer(sample, num_candidates=6, seed=number)
            assert result.trajectories is not None
            errors[name].append(float(ade(result.trajectories.numpy(), future.numpy()).min()))
        v0, _, _ = history_rates(models["bf16"].unicycle, sample.history_xyz, sample.history_rot)
        errors["straight on"].append(float(ade(constant_rates(v0, 0.0, 0.0)[None], future.numpy())[0]))
    found = {name: mean(values) for name, values in errors.items()}
    # Other sentences are sampled, so that single clips move by decimetres either way.
    assert abs(found["fp8"] - found["bf16"]) < 0.1
    assert abs(found["int4"] - found["bf16"]) < 0.1
    assert found["straight on"] > 2 * max(found["fp8"], found["int4"])

# SPDX-License-Identifier: Apache-2.0
"""A slice of training leaves a checkpoint that loads, and the next one goes on from it."""

from __future__ import annotations

import json

import pytest
import torch

import alpamayo_rt
from alpamayo_rt.training import train
from alpamayo_rt.training.train import Slice


@pytest.mark.slow
def test_two_slices(tmp_path, monkeypatch):
    out, state = tmp_path / "model", tmp_path / "state.pt"
    # One step a slice: the time is up as soon as it is looked at.
    settings = Slice(
        minutes=1e-6,
        batch=1,
        rate=0.02,
        warmup=1,
        final=0.5,
        noises=1,
        seed=1,
        uses=2,
        compiled=False,
        workers=0,
    )
    train.train(out, state, settings, torch.device("cpu"))
    assert len(list(out.glob("*.safetensors"))) == 2
    first = alpamayo_rt.load(str(out), device="cpu").engine.network.state_dict()
    assert all(bool(torch.isfinite(value).all()) for value in first.values())
    train.train(out, state, settings, torch.device("cpu"))
    second = alpamayo_rt.load(str(out), device="cpu").engine.network.state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert torch.load(state, weights_only=True)["step"] == 2
    records = [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]
    assert [record["steps"] for record in records] == [1, 1]
    assert {"words", "answers", "flow"} <= set(records[0]["losses"])

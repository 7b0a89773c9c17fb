# SPDX-License-Identifier: Apache-2.0
"""Models that have more tasks than two: `task` beside `mode`, their own default cameras."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nim_requests as nim
import pytest

from alpamayo_rt import load
from conftest import QUICK, Running, start


@pytest.fixture(scope="module")
def second(golden: Path) -> Iterator[Running]:
    folder = golden / "alpamayo2_super" / "model" / "checkpoint"
    model = load(str(folder), "eager", "fp32", "cpu")
    found, thread = start(model, replace(QUICK, images=24))
    yield found
    found.server.stop()
    thread.join(20)
    assert found.errors == []


def test_drives_with_six_cameras(second: Running) -> None:
    status, answer, _ = nim.post(
        f"{second.url}/v1/infer", nim.trajectory(images=nim.pictures(24), task="trajectory")
    )
    assert (status, answer.get("task"), answer.get("mode")) == (200, "trajectory", "trajectory"), answer
    status, answer, _ = nim.post(f"{second.url}/v1/infer", nim.trajectory())
    assert status == 422
    assert "with 16 images (without them there are 24)" in nim.sentence(answer)


@pytest.mark.parametrize("task", ["vqa", "grounding", "meta_action", "auto_labeling"])
def test_other_tasks(second: Running, task: str) -> None:
    future = {
        "ego_future_xyz": [[0.5 * n, 0.0, 0.0] for n in range(1, 65)],
        "ego_future_rot": [[1.0, 0.0, 0.0, 0.0]] * 64,
    }
    body = nim.small(task=task, egomotion=nim.egomotion() | future, mode="answer", max_tokens=8)
    if task in ("vqa", "grounding"):
        body["question"] = "Where is the car?"
    status, answer, _ = nim.post(f"{second.url}/v1/infer", body)
    assert status == 200, answer
    assert (answer["task"], answer["trajectories"]) == (task, None)
    assert isinstance(answer["answer"], str)
    if task != "vqa":
        assert answer["reading"] is not None
    streamed = list(second.client.events("/v1/infer", body | {"stream": True}))
    assert streamed[-1].data["answer"] == answer["answer"]


def test_tasks_that_do_not_fit(second: Running, running: Running) -> None:
    def refused(where: Running, **changes: object) -> str:
        status, answer, _ = nim.post(f"{where.url}/v1/infer", nim.small(**changes))
        assert status == 422
        return nim.sentence(answer)

    assert refused(running, task="grounding") == "task: 'grounding', but Alpamayo 1.5 knows trajectory, vqa"
    assert refused(second, task="fly").startswith(
        "task: 'fly', but Alpamayo 2 Super knows trajectory, vqa, grounding"
    )
    assert (
        refused(second, task="vqa", mode="trajectory")
        == "mode: 'trajectory' with task vqa, expected one of the two"
    )
    missing = "egomotion.ego_future_xyz: missing, expected it and ego_future_rot for task auto_labeling"
    assert refused(second, task="auto_labeling", mode="answer") == missing

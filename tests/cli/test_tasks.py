# SPDX-License-Identifier: Apache-2.0
"""Each task of Alpamayo 2 Super on the command line, and what a request may not say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import QUICK, history, infer, pictures, process, request, write_requests
from test_schemas import RESULT, problems

pytestmark = pytest.mark.usefixtures("loaded_once")

AUTO = {
    "ego_future_xyz": [[0.5 * n, 0.0, 0.0] for n in range(1, 65)],
    "ego_future_rot": np.tile(np.eye(3), (64, 1, 1)).tolist(),
}
TASKS: dict[str, dict[str, Any]] = {
    "trajectory": {},
    "vqa": {"question": "Is it clear?"},
    "grounding": {"question": "Find the lead vehicle and return its bounding box in JSON."},
    "meta_action": {},
    "auto_labeling": AUTO,
}


def ask(images: list[str], task: str, **more: Any) -> dict[str, Any]:
    return request(images, task=task, **TASKS[task], **more)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_as_a_process(task: str, tmp_path: Path, super_folder: Path) -> None:
    images = pictures(tmp_path)
    file = write_requests(tmp_path / "in.json", ask(images, task, id=task))
    out = tmp_path / "out.json"
    run = process(
        "infer", "--model", super_folder, "--input-file", file, "--output-file", out, "--device", "cpu"
    )
    assert run.status == 0, run.err
    written = json.loads(out.read_text())
    assert problems(RESULT, written) == []
    (response,) = written["responses"]
    assert response["status"] == "ok"
    if task == "trajectory":
        assert np.shape(response["trajectories"]) == (2, 64, 3)
        assert "task" not in response
    else:
        assert response["task"] == task
        assert "trajectories" not in response
        assert ("unparsed" in response) == (task != "vqa")  # random weights say nothing sensible
        assert bool(response["reasoning"]) == (task == "meta_action")


def test_prepared_input_with_flags(tmp_path: Path, super_folder: Path) -> None:
    xyz, rot = history()
    arrays: dict[str, Any] = {
        "pixel_values": np.zeros((24, 1536), np.float32),
        "image_grid_thw": np.array([[1, 4, 6]]),
        "camera_indices": np.array([1]),
        "ego_history_xyz": np.array(xyz),
        "ego_history_rot": np.array(rot),
    }
    np.savez(tmp_path / "p.npz", **arrays, task="meta_action")
    for name, value in AUTO.items():
        np.save(tmp_path / f"{name}.npy", np.array(value))
    common = ("--prepared", tmp_path / "p.npz", *QUICK)
    future = [f"--ego-future-{kind}-npy={tmp_path / f'ego_future_{kind}.npy'}" for kind in ("xyz", "rot")]
    for flags, task in (((), "meta_action"), (("--task", "auto_labeling", *future), "auto_labeling")):
        run = process("infer", "--model", super_folder, *common, *flags, "--output-file", tmp_path / "o.json")
        assert run.status == 0, run.err
        (response,) = json.loads((tmp_path / "o.json").read_text())["responses"]
        assert response["task"] == task


def test_an_auto_label_of_a_clip_is_shown_its_future(tmp_path: Path, super_folder: Path) -> None:
    out = tmp_path / "out.json"
    flags = ("--clip", "world-live:0:3", "--task", "auto_labeling", "--max-generate-length", "3")
    run = process("infer", "--model", super_folder, *flags, "--output-file", out, "--device", "cpu")
    assert run.status == 0, run.err
    written = json.loads(out.read_text())
    assert problems(RESULT, written) == []
    assert written["responses"][0]["task"] == "auto_labeling"


def test_spelled_layouts_are_understood(
    tmp_path: Path, super_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(tmp_path)
    drive = "output the chain-of-thought reasoning of the driving process, then output "
    block = "<|traj_history_start|><|traj_history_end|>"

    def spelled(text: str, **more: Any) -> dict[str, Any]:
        entry = request(images, **more)
        entry["messages"][0]["content"].append({"type": "text", "text": text})
        return entry

    navigated = f"{block}Turn left{drive}the future trajectory."
    meta = f"{block}{drive}meta actions, then output the future trajectory."
    file = write_requests(
        tmp_path / "in.json",
        spelled(navigated, id="spelled"),
        request(images, nav_text="Turn left", id="field"),
        spelled(meta, id="meta"),
        spelled(navigated, nav_text="Turn right", id="both"),
        spelled(meta, task="trajectory", id="two tasks"),
        spelled(f"{block}Turn left", id="no instruction"),
    )
    _, responses = infer(capsys, file, model=super_folder)
    one, two, three, *wrong = responses
    assert one["generated_token_ids"] == two["generated_token_ids"]
    assert one["prompt_tokens"] == two["prompt_tokens"]
    assert three["task"] == "meta_action"
    assert [r["status"] for r in wrong] == ["error"] * 3
    assert "nav_text: 'Turn right', but the messages say 'Turn left'" in wrong[0]["error"]
    assert "task: 'trajectory', but the messages say 'meta_action'" in wrong[1]["error"]
    assert "messages: text 'Turn left' is not part of the prompt's layout" in wrong[2]["error"]


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "task-unknown": ({"task": "drive"}, ["task: 'drive'", "trajectory, vqa, grounding"]),
    "task-a-number": ({"task": 3}, ["task: 3, expected a text"]),
    "question-missing": ({"task": "grounding"}, ["question: missing", "task grounding"]),
    "question-too-much": (
        {"task": "meta_action", "question": "Why?"},
        ["question: given with task meta_action"],
    ),
    "nav-too-much": ({"task": "meta_action", "nav_text": "Left"}, ["nav_text: given with task meta_action"]),
    "future-missing": ({"task": "auto_labeling"}, ["ego_future_xyz: missing, expected 64 poses"]),
    "future-short": ({**AUTO, "ego_future_xyz": [[0.0] * 3] * 63}, ["ego_future_xyz: shape (63, 3)"]),
    "future-half": ({"ego_future_xyz": AUTO["ego_future_xyz"]}, ["ego_future_rot: missing, expected both"]),
    "future-file": ({"ego_future_xyz_npy": "no.npy"}, ["ego_future_xyz_npy: ", "no.npy is missing"]),
    "future-twice": (
        {**AUTO, "ego_future_xyz_npy": "no.npy"},
        ["ego_future_xyz: given with ego_future_xyz_npy, expected one of them"],
    ),
    "cameras-not-divisible": ({"camera_indices": None}, ["2 images", "default cameras [0, 1, 2, 3, 5, 6]"]),
    "guidance-with-words": (
        {"task": "meta_action", "guidance_weight": 3.0},
        ["guidance_weight: given without"],
    ),
}


def test_what_a_request_may_not_say(
    tmp_path: Path, super_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(tmp_path)
    entries = [request(images, **changes, id=name) for name, (changes, _) in BAD.items()]
    run, responses = infer(capsys, write_requests(tmp_path / "in.json", *entries), model=super_folder)
    assert run.status == 1
    for n, (response, (name, (_, wanted))) in enumerate(zip(responses, BAD.items(), strict=True)):
        assert response["status"] == "error", name
        assert response["error"].startswith(f"requests[{n}]."), name
        for words in wanted:
            assert words in response["error"], (name, response["error"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--task", "meta_action"), ["--task: goes with --clip or --prepared"]),
        (("--ego-future-xyz-npy", "no.npy"), ["--ego-future-xyz-npy", "no.npy is missing"]),
    ],
)
def test_flags_that_do_not_go_together(
    flags: tuple[str, ...], words: list[str], tmp_path: Path, super_folder: Path, cli: Callable[..., Any]
) -> None:
    file = write_requests(tmp_path / "in.json", request(pictures(tmp_path)))
    run = cli("infer", "--model", super_folder, "--input-file", file, *flags)
    assert run.status == 2
    assert run.out == ""
    for word in words:
        assert word in run.err


def test_other_families_refuse_the_tasks_that_they_do_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(tmp_path)
    asked = [ask(images, "vqa"), ask(images, "meta_action"), ask(images, "auto_labeling")]
    _, responses = infer(capsys, write_requests(tmp_path / "in.json", *asked))
    assert responses[0]["task"] == "vqa"
    assert [r["error"] for r in responses[1:]] == [
        f"requests[{n}].task: Alpamayo 1.5 has no {task}, expected one of trajectory, vqa"
        for n, task in ((1, "meta_action"), (2, "auto_labeling"))
    ]


@pytest.mark.parametrize("family", ["alpamayo1_5", "alpamayo_r1", "alpamayo2_super"])
def test_inspect_of_released_sizes(family: str, cli: Callable[..., Any]) -> None:
    run = cli("inspect", f"released:{family}", "--json")
    assert run.status == 0
    found = json.loads(run.out)
    assert found["family"] == family
    assert found["memory_gib"]["bf16"]["fits"]["80 GB"] == "guided"
    text = cli("inspect", f"released:{family}")
    assert f"{found['parameters']:,} parameters" in text.out
    wrong = cli("inspect", "released:alpamayo9")
    assert (wrong.status, wrong.out) == (2, "")
    assert "family: 'alpamayo9', expected one of" in wrong.err

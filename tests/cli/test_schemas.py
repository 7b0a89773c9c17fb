# SPDX-License-Identifier: Apache-2.0
"""docs/*.schema.json say what the command really reads and writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_requests import BAD_REQUESTS
from cli_runs import CASES, CHECKPOINT, ROOT, SETTINGS, history, infer, request, with_text, write_requests
from jsonschema import Draft202012Validator

from alpamayo_rt.sample.request import _SAMPLE_FIELDS
from alpamayo_rt.settings import SETTING_NAMES

pytestmark = pytest.mark.usefixtures("loaded_once")


def schema(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / f"{name}.schema.json").read_text(encoding="utf-8"))


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every schema below a schema."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(child)


RESULT, REQUEST = schema("result"), schema("request")


def problems(found: dict[str, Any], value: Any) -> list[str]:
    return [error.message[:200] for error in Draft202012Validator(found).iter_errors(value)]


@pytest.mark.parametrize("name", ["result", "request", "bench"])
def test_schema_is_valid_and_describes_every_field(name: str) -> None:
    found = schema(name)
    Draft202012Validator.check_schema(found)
    for part in objects(found):
        for field, value in part.get("properties", {}).items():
            described = value.get("description") or found["$defs"].get(value.get("$ref", "").split("/")[-1])
            # The types inside a `not` only tell null from a text.
            assert described or value == {"type": "string"}, field


def test_result_schema_accepts_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict
) -> None:
    question = request(["0.png"], question="Is it clear?", camera_indices=[1])
    requests = [
        entry | {"id": "single"},
        entry | {"id": "multi", "multi_seq": True, "num_candidates": 3},
        entry | {"id": "guided", "nav_text": "Turn left in 40m", "guidance_weight": 1.5},
        question | {"id": "question"},
        {"id": "bad"},
        7,
    ]
    run, responses = infer(capsys, write_requests(tmp_path / "in.json", *requests))
    assert run.status == 1
    written = json.loads((tmp_path / "out.json").read_text())
    assert problems(RESULT, written) == []
    single, multi, guided, question, *failed = responses
    for response, candidates, sequences in ((single, 2, 1), (multi, 3, 3), (guided, 2, 1)):
        for field in ("trajectories", "yaw", "actions", "output_trajectory"):
            assert len(response[field]) == candidates
        for field in ("reasoning", "generated_token_ids", "stop_reasons"):
            assert len(response[field]) == sequences
        assert response["actions"] == response["output_trajectory"]
    assert "answer" in question
    assert "trajectories" not in question
    assert [response["status"] for response in failed] == ["error", "error"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: w.pop("versions"),
        lambda w: w["responses"].clear(),
        lambda w: w["responses"][0].pop("seed"),
        lambda w: w["responses"][0].update(answer="no"),
        lambda w: w["responses"][0]["trajectories"][0].pop(),
        lambda w: w["responses"][0]["yaw"][0].append(0.0),
        lambda w: w["responses"][0]["actions"][0][0].append(0.0),
        lambda w: w["responses"][0].update(stop_reasons=["tired"]),
        lambda w: w["responses"][0].update(status="error"),
        lambda w: w["responses"][0]["milliseconds"].update(total=-1),
    ],
)
def test_result_schema_refuses_damage(damage: Callable, result_file: dict[str, Any]) -> None:
    written = json.loads(json.dumps(result_file))
    assert problems(RESULT, written) == []
    damage(written)
    assert problems(RESULT, written)


@pytest.fixture(scope="module")
def result_file(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from alpamayo_rt.cli.main import main

    output = tmp_path_factory.mktemp("result") / "out.json"
    argv = ["infer", "--model", CHECKPOINT, "--prepared", CASES / "nav_cfg.npz", "--output-file", output]
    argv += ["--num-candidates", 2, "--max-generate-length", 3, "--num-diffusion-steps", 1]
    assert main([str(word) for word in argv]) == 0
    return json.loads(output.read_text())


def test_request_schema_knows_the_fields_of_the_parser() -> None:
    in_schema = set(REQUEST["$defs"]["request"]["properties"])
    assert in_schema == {*_SAMPLE_FIELDS, *SETTING_NAMES}
    assert set(REQUEST["properties"]) == {"requests", "batch_size", *SETTING_NAMES}


def test_good_request_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict) -> None:
    xyz, rot = history()
    requests = [
        entry,
        entry | {"id": 7, "ego_history_xyz": [[xyz]], "ego_history_rot": [rot]},
        entry | {"nav_text": None, "question": "Is it clear?", "top_k": None},
        with_text(entry, "output the chain-of-thought reasoning of the driving process, "
                  "then output the future trajectory."),
        request(["0.png"], camera_indices=None, temperature=0, top_p=1, top_k=5, seed=3, multi_seq=False),
    ]  # fmt: skip
    source = write_requests(tmp_path / "in.json", *requests, batch_size=2, note="a warning")
    assert problems(REQUEST, json.loads(source.read_text())) == []
    run, _ = infer(capsys, source)
    assert run.status == 0


# What only the files, the model or the sentences can tell, a schema cannot.
BEYOND_A_SCHEMA = {
    "no-messages", "image-missing", "image-is-a-folder", "image-is-text", "image-empty", "jpeg-corrupt",
    "png-truncated", "image-16-bit", "image-too-thin", "images-of-two-sizes", "zero-images",
    "images-not-divisible", "images-not-divisible-by-default", "history-missing", "history-nan",
    "history-infinite", "history-off-the-planet", "rotations-nan", "rotations-that-stretch",
    "rotations-that-mirror", "only-positions", "only-rotations", "npy-missing", "npy-truncated", "npy-empty",
    "npy-pickled-objects", "npy-texts", "npy-complex", "npy-misshapen", "stray-text",
    "stray-text-in-system-message", "stray-special-token", "special-token-in-nav", "trajectory-token-in-nav",
    "special-token-in-question", "half-a-character-in-nav", "nav-conflicts-with-route", "two-routes",
    "question-conflicts-with-span", "labels-conflict-with-cameras", "guidance-without-nav", "temperature-nan",
    "cameras-as-fractions",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(BAD_REQUESTS) - BEYOND_A_SCHEMA))
def test_request_schema_refuses(name: str, tmp_path: Path, entry: dict) -> None:
    change = BAD_REQUESTS[name][0]
    assert problems(REQUEST, SETTINGS | {"requests": [change(entry, tmp_path)]})


@pytest.mark.parametrize("value", [[], {}, {"requests": []}, {"requests": [{}], "top_p": 2}, {"requests": {}}])
def test_request_schema_refuses_at_the_top(value: Any) -> None:
    assert problems(REQUEST, value)


def test_the_exceptions_are_cases() -> None:
    assert set(BAD_REQUESTS) >= BEYOND_A_SCHEMA

# SPDX-License-Identifier: Apache-2.0
"""The published interface, asked by a client that knows its documentation only; answers keep our OpenAPI."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import jsonschema
import nim_requests as nim
import pytest

from conftest import Running


@pytest.fixture(scope="module")
def openapi(running: Running) -> dict[str, Any]:
    with urllib.request.urlopen(f"{running.url}/openapi.json") as answer:
        described: dict[str, Any] = json.load(answer)
    return described


def keeps_schema(openapi: dict[str, Any], method: str, path: str, status: int, answer: Any) -> None:
    described = openapi["paths"][path][method]["responses"][str(status)]
    schema = described["content"]["application/json"]["schema"] | {"components": openapi["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


def shape(value: Any) -> tuple[int, ...]:
    return (len(value), *shape(value[0])) if isinstance(value, list) else ()


def ask(running: Running, openapi: dict[str, Any], path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, answer, _ = nim.post(running.url + path, body)
    assert status == 200, answer
    keeps_schema(openapi, "post", path, 200, answer)
    jsonschema.Draft202012Validator(
        openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        | {"components": openapi["components"]}
    ).validate(body)
    return answer


def test_a_trajectory_of_the_default_layout(running: Running, openapi: dict[str, Any]) -> None:
    answer = ask(running, openapi, "/v1/infer", nim.trajectory())
    assert shape(answer["trajectories"]) == (2, 64, 3)
    assert shape(answer["rotations"]) == (2, 64, 3, 3)
    assert len(answer["comfort_metrics"]) == 2
    assert len(answer["reasoning"]) == 1
    assert answer["answer"] is None
    assert answer["seed"] == 7
    assert answer["warnings"] == []
    assert {"vision", "prefill", "decode", "expert", "server_decode", "server_queue"} <= set(
        answer["milliseconds"]
    )


def test_every_spelling_gives_the_same(running: Running, openapi: dict[str, Any]) -> None:
    plain = ask(running, openapi, "/v1/infer", nim.small())
    images = nim.pictures(1)
    others = [
        nim.small(images=[nim.uri(images[0])]),
        nim.small(camera_order=["camera_front_wide_120fov"]),
        nim.small(camera_order=["front_wide_120fov"], egomotion=nim.egomotion(quaternions=True)),
        nim.small(egomotion={k: [v] for k, v in nim.egomotion().items()}),
        nim.small(model="nvidia/alpamayo1.5", stream=False, nav_text=None, question=None),
        nim.small(top_k=0),
    ]
    for body in others:
        assert ask(running, openapi, "/v1/infer", body)["trajectories"] == plain["trajectories"]


def test_answers_need_no_egomotion(running: Running, openapi: dict[str, Any]) -> None:
    answer = ask(running, openapi, "/v1/infer", nim.question())
    assert isinstance(answer["answer"], str)
    assert answer["trajectories"] is answer["rotations"] is answer["reasoning"] is None
    for count in (2, 3, 4):  # whatever count, in the order given
        ask(running, openapi, "/v1/infer", nim.question(images=nim.pictures(count)))


def test_both(running: Running, openapi: dict[str, Any]) -> None:
    body = nim.small(mode="both", question="Is the light green?", nav_text="Turn left in 40m")
    answer = ask(running, openapi, "/v1/infer", body)
    assert shape(answer["trajectories"]) == (1, 64, 3)
    assert isinstance(answer["answer"], str)
    assert len(answer["stop_reasons"]) == 2
    alone = ask(running, openapi, "/v1/infer", body | {"mode": "trajectory"})
    assert alone["trajectories"] == answer["trajectories"]
    assert alone["warnings"] == ["question: not used with mode trajectory"]


def test_chat_completions(running: Running, openapi: dict[str, Any]) -> None:
    answer = ask(running, openapi, "/v1/chat/completions", nim.chat())
    content = json.loads(answer["choices"][0]["message"]["content"])
    assert shape(content["trajectories"]) == (2, 64, 3)
    keeps_schema(openapi, "post", "/v1/infer", 200, content)
    assert answer["usage"]["total_tokens"] == sum(
        answer["usage"][k] for k in ("prompt_tokens", "completion_tokens")
    )


def test_nvext_goes_before_the_top(running: Running, openapi: dict[str, Any]) -> None:
    def seed_of(**changes: Any) -> int:
        answer = ask(running, openapi, "/v1/chat/completions", nim.chat(**changes))
        seed: int = json.loads(answer["choices"][0]["message"]["content"])["seed"]
        return seed

    nvext = nim.chat()["nvext"]
    assert seed_of() == 3
    assert seed_of(nvext=nvext | {"seed": 5}) == 5
    body = nim.chat(top_k=1, nvext=nvext | {"top_k": 40, "seed": 11}, temperature=4.0)
    sampled = ask(running, openapi, "/v1/chat/completions", body)
    greedy = ask(running, openapi, "/v1/chat/completions", body | {"nvext": nvext | {"seed": 11}})
    said = [a["choices"][0]["message"]["reasoning_content"] for a in (sampled, greedy)]
    assert said[0] != said[1]


def test_vqa(running: Running, openapi: dict[str, Any]) -> None:
    by_text = ask(running, openapi, "/v1/vqa", nim.vqa())
    content = by_text["choices"][0]["message"]["content"]
    asked = nim.vqa()["messages"][0]["content"][0]["text"]
    by_field = ask(
        running, openapi, "/v1/vqa", nim.vqa(messages=nim.message(nim.pictures(1)), nvext={"question": asked})
    )
    native = ask(running, openapi, "/v1/infer", nim.question(question=asked))
    assert content == by_field["choices"][0]["message"]["content"] == native["answer"]


@pytest.mark.parametrize(
    "path", ["health/live", "health/ready", "models", "metadata", "version", "license", "manifest"]
)
def test_information(running: Running, openapi: dict[str, Any], path: str) -> None:
    answer = running.client.get(f"/v1/{path}")
    keeps_schema(openapi, "get", f"/v1/{path}", 200, answer)
    text = json.dumps(answer)
    assert "/work" not in text
    assert "/tmp" not in text


def test_models_lists_what_may_be_asked_for(running: Running) -> None:
    names = [card["id"] for card in running.client.get("/v1/models")["data"]]
    assert names == ["checkpoint", "nvidia/alpamayo1.5"]
    for name in [*names, "nvidia/Alpamayo-1.5-10B", "", None]:
        assert nim.post(f"{running.url}/v1/infer", nim.question(model=name))[0] == 200
    status, answer, _ = nim.post(f"{running.url}/v1/infer", nim.question(model="gpt-4"))
    assert status == 404
    assert "'gpt-4' is not served here" in nim.sentence(answer)


def test_metrics(running: Running) -> None:
    nim.post(f"{running.url}/v1/infer", nim.question())
    with urllib.request.urlopen(f"{running.url}/v1/metrics") as answer:
        text = answer.read().decode()
    assert 'alpamayo_requests_total{route="/v1/infer",status="200"}' in text
    assert 'alpamayo_stage_seconds_count{stage="vision"}' in text
    assert "alpamayo_queue_taken 0.0" in text


_MOVED = {**nim.egomotion(), "ego_history_xyz": [[n * 0.5 + 9, 0, 0] for n in range(-15, 1)]}


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"nav_txt": "Turn left"}, "nav_txt: unknown field, ignored"),
        ({"mode": "answer", "question": "What?", "nav_text": "left"}, "nav_text: not used with mode answer"),
        (
            {"egomotion": _MOVED},
            "egomotion.ego_history_xyz: the last pose is not the origin, expected the ego frame at t0",
        ),
    ],
)  # fmt: skip
def test_what_is_not_used_is_said(running: Running, changes: dict[str, Any], warning: str) -> None:
    _, answer, _ = nim.post(f"{running.url}/v1/infer", nim.small(**changes))
    assert warning in answer["warnings"]

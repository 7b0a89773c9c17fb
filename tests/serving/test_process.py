# SPDX-License-Identifier: Apache-2.0
"""The server as its users start and end it."""

from __future__ import annotations

import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import nim_requests as nim
import pytest
from processes import CHECKPOINT, Process

from alpamayo_rt.cli.main import main
from alpamayo_rt.serving.client import ServerError


def taken(server: Process) -> float:
    with urllib.request.urlopen(f"{server.url}/v1/metrics") as answer:
        text = answer.read().decode()
    return float(text.split("\nalpamayo_queue_taken ")[1].split("\n")[0])


def test_sigterm_loses_nothing_and_kill_leaves_nothing(tmp_path: Path) -> None:
    server = Process("--port", "0", "--no-warm-up", cwd=tmp_path).ready()
    port = server.port
    body = nim.small(num_traj_samples=4, num_diffusion_steps=10)
    answers: list[Any] = []

    def ask(stream: bool) -> None:
        if stream:
            answers.append((200, list(server.client.events("/v1/infer", body | {"stream": True}))[-1].data))
        else:
            answers.append(nim.post(f"{server.url}/v1/infer", body)[:2])

    clients = [threading.Thread(target=ask, args=(n % 3 == 0,)) for n in range(9)]
    for client in clients:
        client.start()
    while taken(server) < 9 and not answers:
        time.sleep(0.02)
    assert server.end(signal.SIGTERM) == 0
    for client in clients:
        client.join(10)
    assert [status for status, _ in answers] == [200] * 9
    assert all(answer["trajectories"] == answers[0][1]["trajectories"] for _, answer in answers)
    assert not [line for line in server.said if "Traceback" in line or "rror" in line], server.said
    with pytest.raises(ServerError):
        server.client.get("/v1/health/live")

    server = Process("--port", str(port), "--no-warm-up", cwd=tmp_path).ready()
    clients = [threading.Thread(target=_ask_and_be_cut_off, args=(server, body)) for _ in range(4)]
    for client in clients:
        client.start()
    while not taken(server):
        time.sleep(0.02)
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    for client in clients:
        client.join(10)
    assert list(tmp_path.iterdir()) == []

    server = Process("--port", str(port), "--no-warm-up", cwd=tmp_path).ready()
    assert taken(server) == 0
    status, answer, _ = nim.post(f"{server.url}/v1/infer", body)
    assert (status, answer["trajectories"]) == (200, answers[0][1]["trajectories"])
    assert server.end(signal.SIGINT) == 0


def test_stopped_while_it_loads_and_stopped_twice() -> None:
    server = Process("--port", "0", model="nano")
    assert server.end(signal.SIGTERM) == 0
    assert not [line for line in server.said if "rror" in line or "terminate" in line], server.said

    server = Process("--port", "0", "--no-warm-up").ready()
    body = nim.small(num_traj_samples=64, num_diffusion_steps=100)
    client = threading.Thread(target=_ask_and_be_cut_off, args=(server, body))
    client.start()
    while not taken(server):
        time.sleep(0.02)
    server.process.send_signal(signal.SIGTERM)
    while not any("finishing" in line for line in server.said):
        time.sleep(0.02)
    assert server.end(signal.SIGTERM, 5) == 1
    client.join(10)


def _ask_and_be_cut_off(server: Process, body: dict[str, Any]) -> None:
    try:
        for _ in range(50):
            nim.post(f"{server.url}/v1/infer", body)
    except (OSError, ValueError):  # cut off, also in the middle of an answer
        return


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "70000"], "--host, --port: 127.0.0.1:70000 cannot be listened on"),
        (["--host", "no.such.host.invalid"], "--host, --port: no.such.host.invalid:8000 cannot be listened on"),
        (["--threads", "0"], "--threads: 0, expected 1 or more"),
        (["--queue", "-1"], "--queue: -1, expected 0 or more"),
        (["--deadline", "nan"], "--deadline: nan, expected seconds above 0"),
        (["--token-file", "/no/such/file"], "--token-file: /no/such/file: cannot be read (No such file"),
        (["--port", "0", "--dataset-root", "/no/such"], "/no/such"),
    ],
)
def test_what_cannot_start(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", str(CHECKPOINT), *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert sentence in said[-1]


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--model", str(CHECKPOINT), "--port", str(port)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", str(tmp_path), "--port", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "listening" in said[0]
    assert said[-1].startswith(f"alpamayo-rt: {tmp_path}")
    assert "Traceback" not in "".join(said)
    assert main(["serve"]) == 2


def test_tokens_have_to_be_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    for text in ("", " \n", "two words", "ümlaut"):
        file.write_text(text, encoding="utf-8")
        assert main(["serve", "--model", str(CHECKPOINT), "--token-file", str(file)]) == 2
    monkeypatch.setenv("ALPAMAYO_RT_TOKEN", "")
    assert main(["serve", "--model", str(CHECKPOINT)]) == 2

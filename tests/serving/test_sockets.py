# SPDX-License-Identifier: Apache-2.0
"""Clients that misbehave on the wire cost nothing but their connection."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import nim_requests as nim
import pytest

from conftest import QUICK, Running


def connect(running: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=15)


def head(length: int, path: str = "/v1/infer", more: str = "") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def everything(sock: socket.socket) -> bytes:
    got = b""
    try:
        while data := sock.recv(65536):
            got += data
    except ConnectionResetError:
        pass
    return got


def first_line(sock: socket.socket) -> bytes:
    return sock.makefile("rb").readline()


@pytest.fixture(autouse=True)
def _nothing_is_left(running: Running) -> Iterator[None]:
    yield
    until = time.monotonic() + 5
    while time.monotonic() < until and (running.taken or running.server.service.bodies.held):
        time.sleep(0.02)
    assert running.taken == 0
    assert running.server.service.bodies.held == 0
    assert running.errors == []
    assert nim.post(f"{running.url}/v1/infer", nim.question())[0] == 200


def test_a_body_that_ends_early(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(head(1000) + b'{"images": [')
    with connect(running) as sock:
        sock.sendall(head(1000) + b'{"images": [')
        sock.shutdown(socket.SHUT_WR)
        assert b" 200 " not in everything(sock)


def test_a_body_that_comes_too_slowly(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(head(1000))
        began = time.monotonic()
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.1):
                try:
                    sock.sendall(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        assert b"408" in first_line(sock)
        assert running.taken == 0
        assert QUICK.body_seconds - 0.2 < time.monotonic() - began < QUICK.body_seconds + 3
        stop.set()
        thread.join()


def test_headers_that_come_too_slowly(running: Running) -> None:
    with connect(running) as silent, connect(running) as slow:
        began = time.monotonic()
        slow.sendall(b"POST /v1/infer HTTP/1.1\r\n")
        thread = threading.Thread(target=lambda: everything(silent))
        thread.start()
        for n in range(100):
            try:
                slow.sendall(f"X-{n}: y\r\n".encode())
            except OSError:
                break
            time.sleep(0.1)
        thread.join(10)
        assert not thread.is_alive()
        assert time.monotonic() - began < QUICK.header_seconds + 4


def test_too_long_a_body(running: Running) -> None:
    with connect(running) as sock:
        sock.sendall(head(QUICK.body_bytes + 1))
        assert b"413" in first_line(sock)
    with connect(running) as sock:  # a length that is not told
        sock.sendall(
            b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(QUICK.body_bytes // 0x10000 + 2):
                sock.sendall(chunk)
        except OSError:
            pass
        assert b"413" in first_line(sock)


def test_many_large_bodies_at_once(running: Running) -> None:
    socks = [connect(running) for _ in range(3)]
    for sock in socks:
        sock.sendall(head(QUICK.body_bytes - 1) + b" " * (QUICK.body_bytes - 4096))
    lines = [first_line(sock) for sock in socks]
    for sock in socks:
        sock.close()
    assert sum(b"429" in line for line in lines) >= 1
    assert all(b"429" in line or b"408" in line for line in lines)


def test_no_http(running: Running) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /v1/infer HTTP/9.9\r\n\r\n", b"\0" * 100):
        with connect(running) as sock:
            sock.sendall(garbage + b"\r\n\r\n")
            assert b" 200 " not in everything(sock)


def test_a_length_that_is_none(running: Running) -> None:
    for length in ("-1", "abc", "1e3", "99999999999999999999999"):
        with connect(running) as sock:
            sock.sendall(head(0).replace(b"Length: 0", f"Length: {length}".encode()))
            assert b" 4" in first_line(sock)


def slow_request() -> bytes:
    return json.dumps(nim.small(num_traj_samples=8, num_diffusion_steps=20, max_tokens=64)).encode()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(running: Running, stream: bool) -> None:
    body = json.dumps(json.loads(slow_request()) | {"stream": stream}).encode()
    socks = [connect(running) for _ in range(QUICK.waiting + 1)]
    for sock in socks:
        sock.sendall(head(len(body)) + body)
    until = time.monotonic() + 5
    while running.taken < len(socks) and time.monotonic() < until:
        time.sleep(0.01)
    status, answer, headers = nim.post(f"{running.url}/v1/infer", nim.question())
    assert (status, int(headers["retry-after"]) >= 1) == (429, True), answer
    for sock in socks:
        sock.close()
    until = time.monotonic() + 3
    while running.taken > 1 and time.monotonic() < until:  # the engine may still hold the one that runs
        time.sleep(0.01)
    assert running.taken <= 1


def test_a_deadline_of_ones_own(running: Running) -> None:
    body = json.loads(slow_request())
    began = time.monotonic()
    status, answer, _ = nim.post(f"{running.url}/v1/infer", body, {"X-Deadline-Ms": "150"})
    assert (status, nim.sentence(answer)) == (504, "(deadline): passed before the answer was there")
    assert time.monotonic() - began < 3
    status, answer, _ = nim.post(f"{running.url}/v1/infer", body, {"X-Deadline-Ms": "soon"})
    assert (status, nim.sentence(answer)[:14]) == (422, "x-deadline-ms:")


def test_one_connection_for_many_requests(running: Running) -> None:
    body = json.dumps(nim.question()).encode()
    with connect(running) as sock:
        file = sock.makefile("rb")
        for _ in range(3):
            sock.sendall(head(len(body)) + body)
            assert b" 200 " in file.readline()
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            assert json.loads(file.read(length))["answer"] is not None

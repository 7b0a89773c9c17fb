# SPDX-License-Identifier: Apache-2.0
"""What is wrong is refused in one sentence that names the field, with the right status."""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import zlib
from typing import Any

import nim_requests as nim
import pytest
from PIL import Image

from conftest import Running

INFER, CHAT, VQA = "/v1/infer", "/v1/chat/completions", "/v1/vqa"


def bomb(side: int) -> str:
    """A PNG of a few bytes that claims to be `side` pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(data).decode()


def broken_jpeg() -> str:
    return base64.b64encode(base64.b64decode(nim.picture())[:900]).decode()


def deep_image() -> str:
    out = io.BytesIO()
    Image.new("I;16", (8, 8)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def gif() -> str:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "GIF")
    return base64.b64encode(out.getvalue()).decode()


EGO = nim.egomotion()
XYZ, ROT = "egomotion.ego_history_xyz", "egomotion.ego_history_rot"
ONE = {"camera_order": ["front_wide"], "num_frames_per_camera": 1}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    (INFER, nim.trajectory(images=[]), "images: 0, expected 1 to 16"),
    (INFER, nim.trajectory(images=nim.pictures(17)), "images: 17, expected 1 to 16"),
    (INFER, nim.trajectory(images="abc"), "images: 'abc', expected a valid list"),
    (INFER, {k: v for k, v in nim.small().items() if k != "images"}, "images: missing"),
    (INFER, nim.small(images=["%%%"]), "images[0]: not base64"),
    (INFER, nim.small(images=["aGVsbG8="]), "images[0]: not an image"),
    (INFER, nim.small(images=["https://example.com/a.jpg"]), "images[0]: an address"),
    (INFER, nim.small(images=["file:///etc/passwd"]), "images[0]: an address"),
    (INFER, nim.small(images=["/etc/passwd"]), "images[0]: not base64"),
    (INFER, nim.small(images=["data:text/plain;base64,aGVsbG8="]), "images[0]: 'data:text/plain;base64'"),
    (INFER, nim.small(images=["data:image/png,abc"]), "images[0]: 'data:image/png'"),
    (INFER, nim.small(images=[bomb(1000)]), "images[0]: 1000×1000 pixels"),
    (INFER, nim.small(images=[bomb(30_000)]), "images[0]: "),
    (INFER, nim.small(images=[broken_jpeg()]), "images[0]: cannot be decoded"),
    (INFER, nim.small(images=[deep_image()]), "images[0]: pixels of mode I;16"),
    (INFER, nim.small(images=[gif()]), "images[0]: not an image, expected JPEG, PNG, WEBP, BMP"),
    (INFER, nim.small(images=[nim.picture(), nim.picture(size=(32, 32))], num_frames_per_camera=2),
     "images[1]: 32×32 pixels, expected 96×64 as images[0]"),
    (INFER, nim.small(images=[nim.picture(size=(500, 500))] * 5, num_frames_per_camera=5), "images: 5 of"),
    (INFER, nim.trajectory(images=nim.pictures(4)), "camera_order: missing, expected"),
    (INFER, nim.trajectory(images=nim.pictures(8), camera_order=["front_wide"]), "num_frames_per_camera: mi"),
    (INFER, nim.small(num_frames_per_camera=2), "num_frames_per_camera: 2 for 1 cameras"),
    (INFER, nim.small(num_frames_per_camera=0), "num_frames_per_camera: 0 for 1 cameras"),
    (INFER, nim.small(camera_order=["sideways"]), "camera_order[0]: 'sideways', expected one of cross_left"),
    (INFER, nim.small(camera_order=[]), "camera_order: []"),
    (INFER, nim.small(camera_order=["front_wide", "front_wide_120fov"], images=nim.pictures(2)), "camera_or"),
    (INFER, nim.small(egomotion=None), "egomotion: missing"),
    (INFER, nim.small(egomotion={}), "egomotion.ego_history_xyz: missing"),
    (INFER, nim.small(egomotion=EGO | {"ego_history_xyz": EGO["ego_history_xyz"][:15]}),
     "egomotion.ego_history_xyz: shape (15, 3), expected (16, 3)"),
    (INFER, nim.small(egomotion=EGO | {"ego_history_xyz": [["1"] * 3] * 16}), f"{XYZ}: expected"),
    (INFER, nim.small(egomotion=EGO | {"ego_history_xyz": [[1, 2], [3]] * 8}), f"{XYZ}: expected"),
    (INFER, nim.small(egomotion=EGO | {"ego_history_xyz": [[True, 2, 3]] * 16}), "egomotion.ego_history_xyz: "),
    (INFER, nim.small(egomotion=EGO | {"ego_history_xyz": [0] * 100_000}), f"{XYZ}: expected"),
    (INFER, nim.small(egomotion=EGO | {"ego_history_rot": [[0.5, 0, 0, 0]] * 16}), f"{ROT}: quaternions"),
    (INFER, nim.small(egomotion=EGO | {"ego_history_rot": [[[1, 1, 1]] * 3] * 16}), f"{ROT}: not rot"),
    (INFER, nim.small(egomotion=EGO | {"ego_history_rot": [1, 2]}), "egomotion.ego_history_rot: shape (2,)"),
    (INFER, nim.small(mode="fly"), "mode: 'fly', expected 'trajectory', 'answer' or 'both'"),
    (INFER, nim.small(mode="both"), "question: missing"),
    (INFER, nim.question(question="  "), "question: missing"),
    (INFER, nim.question(question="x" * 2001), "question: 2001 characters"),
    (INFER, nim.question(question="<|im_end|>"), "question: holds the model's own token"),
    (INFER, nim.question(question="\ud800"), "(body): not JSON"),
    (INFER, nim.small(nav_text="x" * 2001), "nav_text: 2001 characters"),
    (INFER, nim.small(nav_text=5), "nav_text: 5, expected a valid string"),
    (INFER, nim.small(num_traj_samples=0), "num_traj_samples: 0, expected a whole number from 1 to 8"),
    (INFER, nim.small(num_traj_samples=9), "num_traj_samples: 9"),
    (INFER, nim.small(num_traj_samples=1.5), "num_traj_samples: 1.5"),
    (INFER, nim.small(num_traj_samples=True), "num_traj_samples: True"),
    (INFER, nim.small(num_traj_samples="2"), "num_traj_samples: '2'"),
    (INFER, nim.small(num_diffusion_steps=21), "num_diffusion_steps: 21"),
    (INFER, nim.small(max_tokens=65), "max_tokens: 65"),
    (INFER, nim.small(temperature=-1), "temperature: -1"),
    (INFER, nim.small(top_p=2), "top_p: 2"),
    (INFER, nim.small(seed=-1), "seed: -1"),
    (INFER, nim.small(seed=2**64), "seed: 1.8446744073709552e+19"),
    (INFER, nim.small(guidance_weight=1.5), "guidance_weight: given without nav_text"),
    (INFER, nim.small(stream="yes"), "stream: 'yes'"),
    (CHAT, nim.chat(nvext=None), "nvext.camera_order: missing"),
    (CHAT, nim.chat(nvext=ONE), "nvext.egomotion: missing"),
    (CHAT, nim.chat(messages=[]), "messages: no images"),
    (CHAT, nim.chat(messages=[{"role": "driver", "content": "x"}]), "messages[0].role: 'driver'"),
    (CHAT, nim.chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
     "messages[0].content[0].image_url"),
    (CHAT, nim.chat(images=nim.pictures(1)), "images: at the top, expected image_url parts"),
    (CHAT, nim.chat(nvext=nim.chat()["nvext"] | {"num_traj_samples": 99}), "nvext.num_traj_samples: 99"),
    (CHAT, nim.chat(max_tokens=0), "max_tokens: 0"),
    (VQA, nim.vqa(question="What?"), "question: at the top, expected a text part of a message"),
    (VQA, nim.vqa(messages=nim.message(nim.pictures(1))), "messages: no text"),
    (VQA, nim.vqa(messages=[{"role": "user", "content": "What?"}]), "messages: no images"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "expected"), WRONG, ids=[f"{n}" for n in range(len(WRONG))])
def test_wrong_fields(running: Running, path: str, body: dict[str, Any], expected: str) -> None:
    status, answer, _ = nim.post(running.url + path, body)
    assert status == 422, answer
    said = nim.sentence(answer)
    assert said.startswith(expected), said
    assert "\n" not in said
    assert len(said) < 400
    assert "Traceback" not in json.dumps(answer)
    assert running.errors == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e400"])
@pytest.mark.parametrize("name", ["temperature", "guidance_weight", "top_p"])
def test_numbers_that_are_none(running: Running, number: str, name: str) -> None:
    body = json.dumps(nim.small(nav_text="left") | {name: 0.125}).replace("0.125", number)
    status, answer, _ = nim.post(running.url + INFER, body.encode())
    assert status == 422, answer


def test_a_history_that_is_not_finite(running: Running) -> None:
    for value in (math.nan, math.inf):
        body = nim.small(egomotion=EGO | {"ego_history_xyz": [[value, 0, 0]] * 16})
        assert nim.post(running.url + INFER, body)[0] == 422
    huge = json.dumps(nim.small(egomotion=EGO | {"ego_history_xyz": [[0.125, 0, 0]] * 16})).replace(
        "0.125", "1e300"
    )
    status, answer, _ = nim.post(running.url + INFER, huge.encode())
    assert (status, nim.sentence(answer)) == (
        422, "egomotion.ego_history_xyz: holds a value that is not finite",
    )  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{" * 5000, b'{"images":' * 2000]
)
def test_bodies_that_are_no_object(running: Running, body: bytes) -> None:
    status, answer, _ = nim.post(running.url + INFER, body)
    assert status == 422
    assert nim.sentence(answer).startswith("(body): ")


def test_other_types_of_bodies(running: Running) -> None:
    for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
        assert nim.post(running.url + INFER, nim.small(), headers)[0] == 415
    assert (
        nim.post(running.url + INFER, nim.small(), {"Content-Type": "application/json; charset=utf-8"})[0]
        == 200
    )


@pytest.mark.parametrize("path", ["/nothing", "/page/../../etc/passwd", "/page/%2e%2e/app.py", "/page/app.py"])
def test_nothing_else_is_there(running: Running, path: str) -> None:
    status, _, _ = nim.post(running.url + path, {})
    assert status in (404, 405)
    with pytest.raises(Exception, match=r"40[45]"):
        running.client.get(path)


def test_clips_have_to_be_on_the_list(running: Running) -> None:
    for clip, t0_us in (("world-live:0:99", 2_000_000), ("../x", 0), ("world-live:0:1", 17)):
        with pytest.raises(Exception, match=r"clip: .* not on the list|t0_us: 17"):
            list(running.client.events("/page/run", {"clip": clip, "t0_us": t0_us}))
    with pytest.raises(Exception, match=r"404: clip: 'x'"):
        running.client.get("/page/window?clip=x&t0_us=0")
    with pytest.raises(Exception, match=r"422: t0_us: "):
        running.client.get("/page/window?clip=x&t0_us=soon")

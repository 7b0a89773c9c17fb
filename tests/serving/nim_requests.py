# SPDX-License-Identifier: Apache-2.0
"""Requests as the published documentation (1.0.0) describes them, built without this package's own client."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
from PIL import Image

QUICKLY = {"num_diffusion_steps": 2}  # ours, and only to save time
LAYOUT = ("cross_left", "front_wide", "cross_right", "front_tele")


def picture(seed: int = 0, size: tuple[int, int] = (96, 64), kind: str = "JPEG") -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


def pictures(count: int, kind: str = "JPEG") -> list[str]:
    return [picture(n, kind=kind) for n in range(count)]


def uri(image: str, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{image}"


def egomotion(quaternions: bool = False, speed: float = 5.0) -> dict[str, Any]:
    xyz = [[speed * 0.1 * n, 0.0, 0.0] for n in range(-15, 1)]
    matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    rot: list[Any] = [[1.0, 0.0, 0.0, 0.0]] * 16 if quaternions else [matrix] * 16
    return {"ego_history_xyz": xyz, "ego_history_rot": rot}


def trajectory(**changes: Any) -> dict[str, Any]:
    """The native envelope with the default layout of 4 × 4 images."""
    body = {
        "images": pictures(16), "mode": "trajectory", "egomotion": egomotion(), "num_traj_samples": 2,
        "seed": 7, "top_p": 0.98, "top_k": None, "temperature": 0.6, "max_tokens": 8,
    }  # fmt: skip
    return body | QUICKLY | changes


def small(**changes: Any) -> dict[str, Any]:
    """One camera, one frame: quick."""
    one = {"images": pictures(1), "camera_order": ["front_wide"], "num_frames_per_camera": 1}
    return trajectory(**one | {"num_traj_samples": 1} | changes)


def question(**changes: Any) -> dict[str, Any]:
    return {
        "mode": "answer",
        "images": pictures(1),
        "question": "Is the light green?",
        "max_tokens": 6,
    } | changes


def message(images: list[str], text: str | None = None) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": uri(i)}} for i in images]
    if text is not None:
        parts.insert(0, {"type": "text", "text": text})
    return [{"role": "user", "content": parts}]


def chat(**changes: Any) -> dict[str, Any]:
    nvext = {
        "egomotion": egomotion(),
        "num_traj_samples": 2,
        "camera_order": ["front_wide"],
        "num_frames_per_camera": 1,
    }
    return {
        "model": "nvidia/alpamayo1.5", "messages": message(pictures(1)), "max_tokens": 8, "seed": 3,
        "temperature": 0.6, "top_p": 0.98, "nvext": nvext | QUICKLY,
    } | changes  # fmt: skip


def vqa(**changes: Any) -> dict[str, Any]:
    text = "Describe this driving scene and identify safety-relevant observations."
    return {"model": "nvidia/alpamayo1.5", "messages": message(pictures(1), text), "max_tokens": 6} | changes


def post(
    url: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, answer, headers)"""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | (headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), dict(error.headers)


def sentence(answer: dict[str, Any]) -> str:
    assert answer["detail"][0]["msg"] == answer["error"]["message"]
    text: str = answer["error"]["message"]
    return text

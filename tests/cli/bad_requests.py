# SPDX-License-Identifier: Apache-2.0
"""Requests and prepared input that are bad, by kind: how to make one, and what its error has to say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cli_runs import (
    CASES,
    INFINITY,
    NAN,
    cut,
    history,
    pictures,
    request,
    with_text,
)

XYZ, ROT = history()


def changed(values: list, at: tuple[int, ...], to: float) -> list:
    array = np.array(values)
    array[at] = to
    return array.tolist()


def fields(**values: Any) -> Callable[[dict, Path], Any]:
    """The good request with other fields (None leaves one out)."""

    def change(entry: dict, folder: Path) -> dict:
        return {name: value for name, value in (entry | values).items() if value is not None}

    return change


def text(*texts: str, **values: Any) -> Callable[[dict, Path], Any]:
    return lambda entry, folder: with_text(entry | values, *texts)


def image(damage: Callable[[Path], object]) -> Callable[[dict, Path], Any]:
    """The good request with its second picture damaged."""

    def change(entry: dict, folder: Path) -> dict:
        damage(folder / "1.png")
        return entry

    return change


def image_count(count: int, **values: Any) -> Callable[[dict, Path], Any]:
    def change(entry: dict, folder: Path) -> dict:
        made = request(pictures(folder, count))
        return {name: value for name, value in (made | values).items() if value is not None}

    return change


def npy(make: Callable[[Path], object]) -> Callable[[dict, Path], Any]:
    """The history's positions from a file of their own."""

    def change(entry: dict, folder: Path) -> dict:
        make(folder / "xyz.npy")
        del entry["ego_history_xyz"]
        return entry | {"ego_history_xyz_npy": "xyz.npy"}

    return change


def jpeg(path: Path) -> None:
    """A JPEG whose data is broken off, under the picture's name."""
    from PIL import Image

    Image.open(path).save(path, format="JPEG")
    cut(path, 3)


def deep(path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((64, 96), np.uint16)).save(path)


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


BAD_REQUESTS = {
    "not-an-object": (lambda entry, folder: 7, ["requests[0]", "int", "expected an object"]),
    "id-not-a-text": (fields(id=["a"]), ["id: ['a']"]),
    "unknown-field": (fields(navtext="left"), ["navtext: unknown field", "nav_text"]),
    "setting-outside-settings": (fields(batch_size=2), ["batch_size: unknown field"]),
    "prepared-in-a-request": (fields(prepared="f.npz"), ["prepared: unknown field"]),
    "no-messages": (fields(messages=None), ["messages: 0 image(s)"]),
    "messages-not-a-list": (fields(messages="hello"), ["messages: str, expected a list"]),
    "message-without-role": (fields(messages=[{"content": "x"}]), ["messages[0]", "role"]),
    "unknown-content": (
        fields(messages=[{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]),
        ["messages[0].content[0]", "text", "image"],
    ),
    "image-path-not-a-text": (
        fields(messages=[{"role": "user", "content": [{"type": "image", "image": 3}]}]),
        ["messages[0].content[0]"],
    ),
    "image-path-with-zero-byte": (
        fields(messages=[{"role": "user", "content": [{"type": "image", "image": "a\0b"}]}]),
        ["image: holds a zero byte"],
    ),
    "image-missing": (image(Path.unlink), ["1.png: missing"]),
    "image-is-a-folder": (image(lambda p: (p.unlink(), p.mkdir())), ["1.png: is a folder"]),
    "image-is-text": (image(lambda p: p.write_text("hello")), ["1.png: not an image"]),
    "image-empty": (image(lambda p: p.write_bytes(b"")), ["1.png: not an image"]),
    "jpeg-corrupt": (image(jpeg), ["1.png: cannot be decoded"]),
    "png-truncated": (image(cut), ["1.png: cannot be decoded"]),
    "image-16-bit": (image(deep), ["1.png: pixels of mode I;16", "8 bits"]),
    "image-too-thin": (
        lambda entry, folder: request(pictures(folder, 2, 2, 900)),
        ["image of 2×900", "aspect ratio"],
    ),
    "images-of-two-sizes": (
        image(lambda p: pictures(p.parent, 1, 48, 48)),
        ["images of sizes [(48, 48), (64, 96)]"],
    ),
    "zero-images": (image_count(0), ["0 image(s)"]),
    "images-not-divisible": (image_count(3), ["3 image(s) cannot be divided over 2 cameras"]),
    "images-not-divisible-by-default": (image_count(3, camera_indices=None), ["camera_indices", "3 images"]),
    "camera-unknown": (fields(camera_indices=[0, 9]), ["camera_indices: unknown camera 9"]),
    "camera-negative": (fields(camera_indices=[0, -1]), ["unknown camera -1"]),
    "camera-twice": (fields(camera_indices=[1, 1]), ["camera_indices: [1, 1] names a camera twice"]),
    "camera-as-text": (fields(camera_indices=["front", "rear"]), ["camera_indices", "front"]),
    "cameras-as-text": (fields(camera_indices="0,1"), ["camera_indices: '0,1'"]),
    "cameras-as-fractions": (fields(camera_indices=[0.0, 1.0]), ["camera_indices", "[0.0, 1.0]"]),
    "no-cameras": (fields(camera_indices=[]), ["camera_indices"]),
    "history-missing": (
        fields(ego_history_xyz=None, ego_history_rot=None),
        ["ego_history_xyz: missing, expected 16 poses"],
    ),
    "history-short": (fields(ego_history_xyz=XYZ[:15]), ["ego_history_xyz: shape (15, 3)", "(16, 3)"]),
    "history-flat": (fields(ego_history_xyz=[row[:2] for row in XYZ]), ["shape (16, 2)"]),
    "history-ragged": (fields(ego_history_xyz=[[0.0, 1.0], [2.0]]), ["ego_history_xyz: expected an array"]),
    "history-as-text": (fields(ego_history_xyz="straight"), ["ego_history_xyz: expected an array", "straight"]),
    "history-two-vehicles": (fields(ego_history_xyz=[XYZ, XYZ]), ["shape (2, 16, 3)"]),
    "history-nan": (fields(ego_history_xyz=changed(XYZ, (3, 1), NAN)), ["ego_history_xyz", "not finite"]),
    "history-infinite": (fields(ego_history_xyz=changed(XYZ, (0, 0), INFINITY)), ["not finite"]),
    "history-off-the-planet": (fields(ego_history_xyz=changed(XYZ, (0, 0), 1e38)), ["ego_history_xyz"]),
    "rotations-misshapen": (fields(ego_history_rot=XYZ), ["ego_history_rot: shape (16, 3)", "(16, 3, 3)"]),
    "rotations-nan": (fields(ego_history_rot=changed(ROT, (3, 1, 1), NAN)), ["ego_history_rot", "not finite"]),
    "rotations-that-stretch": (
        fields(ego_history_rot=changed(ROT, (3, 1, 1), 2.0)),
        ["ego_history_rot: not rotations"],
    ),
    "rotations-that-mirror": (fields(ego_history_rot=changed(ROT, (3, 1, 1), -1.0)), ["not rotations"]),
    "only-positions": (fields(ego_history_rot=None), ["ego_history_rot: missing, expected both"]),
    "only-rotations": (fields(ego_history_xyz=None), ["ego_history_xyz: missing, expected both"]),
    "inline-and-npy": (
        fields(ego_history_xyz_npy="xyz.npy"),
        ["ego_history_xyz: given with ego_history_xyz_npy"],
    ),
    "npy-path-not-a-text": (
        fields(ego_history_xyz=None, ego_history_xyz_npy=5),
        ["ego_history_xyz_npy: 5, expected a path"],
    ),
    "npy-missing": (npy(lambda p: None), ["ego_history_xyz_npy", "xyz.npy is missing"]),
    "npy-truncated": (npy(lambda p: (np.save(p, XYZ), cut(p))), ["ego_history_xyz_npy", "xyz.npy"]),
    "npy-empty": (npy(lambda p: p.write_bytes(b"")), ["ego_history_xyz_npy", "xyz.npy"]),
    "npy-pickled-objects": (npy(pickled), ["ego_history_xyz_npy", "xyz.npy"]),
    "npy-texts": (npy(lambda p: np.save(p, np.array(["a", "b"]))), ["holds no array of numbers"]),
    "npy-complex": (npy(lambda p: np.save(p, np.array(XYZ) * 1j)), ["holds no array of numbers"]),
    "npy-misshapen": (npy(lambda p: np.save(p, np.zeros((4, 3)))), ["ego_history_xyz: shape (4, 3)"]),
    "stray-text": (
        text("please drive to the nearest airport quickly"),
        ["'please drive to the nearest airport quickly'", "nav_text", "question"],
    ),
    "stray-text-in-system-message": (
        lambda entry, folder: (
            entry | {"messages": [{"role": "system", "content": "You are a pirate."}, *entry["messages"]]}
        ),
        ["'You are a pirate.'", "nav_text"],
    ),
    "stray-special-token": (text("<|im_end|>"), ["'<|im_end|>'", "layout"]),
    "special-token-in-nav": (
        fields(nav_text="left <|traj_future_start|>"),
        ["nav_text", "<|traj_future_start|>"],
    ),
    "trajectory-token-in-nav": (fields(nav_text="left <i17>"), ["nav_text", "<i17>"]),
    "special-token-in-question": (fields(question="why <|im_end|> so"), ["question", "<|im_end|>"]),
    "half-a-character-in-nav": (fields(nav_text="left \ud800"), ["nav_text", "half a character"]),
    "nav-not-a-text": (fields(nav_text=5), ["nav_text: 5, expected a text"]),
    "nav-empty": (fields(nav_text=" "), ["nav_text: empty"]),
    "nav-conflicts-with-route": (
        text("<|route_start|>Turn left<|route_end|>", nav_text="Turn right"),
        ["nav_text: 'Turn right'", "'Turn left'"],
    ),
    "two-routes": (
        text("<|route_start|>left<|route_end|>", "<|route_start|>right<|route_end|>"),
        ["two different navigation texts"],
    ),
    "question-conflicts-with-span": (
        text("<|question_start|>Why?<|question_end|>", question="How?"),
        ["question: 'How?'", "'Why?'"],
    ),
    "labels-conflict-with-cameras": (
        text("Front camera: frame 0", "Rear camera: frame 0"),
        ["camera_indices: [0, 1]", "[1, 4]"],
    ),
    "question-empty": (fields(question=""), ["question: empty"]),
    "question-and-nav": (fields(question="Why?", nav_text="Turn left"), ["question: given with navigation"]),
    "guidance-without-nav": (fields(guidance_weight=1.5), ["guidance_weight: given without navigation"]),
    "candidates-0": (fields(num_candidates=0), ["num_candidates: 0"]),
    "candidates-true": (fields(num_candidates=True), ["num_candidates: True"]),
    "steps-0": (fields(num_diffusion_steps=0), ["num_diffusion_steps: 0"]),
    "temperature-negative": (fields(temperature=-1), ["temperature: -1"]),
    "temperature-nan": (fields(temperature=NAN), ["temperature: nan"]),
    "top-p-2": (fields(top_p=2), ["top_p: 2"]),
    "top-k-0": (fields(top_k=0), ["top_k: 0"]),
    "seed-negative": (fields(seed=-1), ["seed: -1"]),
    "length-0": (fields(max_generate_length=0), ["max_generate_length: 0"]),
    "multi-seq-text": (fields(multi_seq="yes"), ["multi_seq: 'yes'"]),
    "guidance-infinite": (fields(nav_text="left", guidance_weight=INFINITY), ["guidance_weight: inf"]),
}


def prepared_case(**changes: Any) -> Callable[[Path], None]:
    """Prepared input like a recorded case's, with some arrays changed (None leaves one out)."""

    def make(path: Path) -> None:
        with np.load(CASES / "nav_cfg.npz") as archive:
            arrays = {
                name: archive[name]
                for name in (
                    "pixel_values", "image_grid_thw", "camera_indices", "ego_history_xyz", "ego_history_rot"
                )
            }  # fmt: skip
        arrays |= {
            name: change(arrays[name]) if callable(change) else change for name, change in changes.items()
        }
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})

    return make


def _with_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flat[5] = NAN
    return array


BAD_PREPARED = {
    "patches-missing": (prepared_case(pixel_values=None), ["pixel_values: missing"]),
    "grid-missing": (prepared_case(image_grid_thw=None), ["image_grid_thw: missing"]),
    "cameras-missing": (prepared_case(camera_indices=None), ["camera_indices: missing"]),
    "history-missing": (
        prepared_case(ego_history_xyz=None, ego_history_rot=None),
        ["ego_history_xyz: missing"],
    ),
    "patches-narrow": (prepared_case(pixel_values=lambda a: a[:, :100]), ["pixel_values: shape (240, 100)"]),
    "patches-too-few": (prepared_case(pixel_values=lambda a: a[:-1]), ["239 patches", "240"]),
    "patches-nan": (prepared_case(pixel_values=_with_nan), ["pixel_values", "not finite"]),
    "patches-whole-numbers": (prepared_case(pixel_values=lambda a: a.astype(int)), ["pixel_values", "floats"]),
    "grid-misshapen": (prepared_case(image_grid_thw=lambda a: a[:, :2]), ["image_grid_thw: shape (4, 2)"]),
    "grid-odd": (prepared_case(image_grid_thw=lambda a: a + 1), ["image_grid_thw"]),
    "grid-for-other-cameras": (
        prepared_case(camera_indices=np.array([0, 1, 2])),
        ["4 images cannot be divided over 3 cameras"],
    ),
    "history-nan": (prepared_case(ego_history_xyz=_with_nan), ["ego_history_xyz", "not finite"]),
}

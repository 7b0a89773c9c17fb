# SPDX-License-Identifier: Apache-2.0
"""Bad input, one test a kind: one clear line, the right exit status, and no half-done output.

1: a request failed, the output is written and says which; 2: nothing could start, nothing is written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import (
    CASES,
    CHECKPOINT,
    QUICK,
    change_json,
    change_tensors,
    copy_model,
    environment,
    history,
    infer,
    pictures,
    process,
    read_tensors,
    request,
    shard,
    with_text,
    write_requests,
)
from safetensors import safe_open
from safetensors.torch import save_file

NAN, INFINITY = float("nan"), float("inf")
XYZ, ROT = history()


def cases(table: dict[str, tuple]) -> Any:
    """One test an entry of a table."""
    return [pytest.param(*values, id=name) for name, values in table.items()]


def changed(values: list, at: tuple[int, ...], to: float) -> list:
    array = np.array(values)
    array[at] = to
    return array.tolist()


# ---------------------------------------------------------------------------------------------------------
# One request is bad: status 1, the output says which and why.


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


def cut(path: Path, parts: int = 2) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // parts])


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


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("change", "words"), cases(BAD_REQUESTS))
def test_bad_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict, change: Callable, words: list[str]
) -> None:
    run, (response,) = infer(capsys, write_requests(tmp_path / "in.json", change(entry, tmp_path)))
    assert run.status == 1
    assert (response["id"], response["status"]) == ("0", "error")
    error = response["error"]
    assert error.startswith("requests[0]")
    assert "\n" not in error
    assert "internal error" not in error
    assert len(error) < 500
    for word in words:
        assert word in error
    assert [line for line in run.err.splitlines() if error in line] == [f"[1/1] 0: {error}"]
    assert run.complaints == []


@pytest.mark.usefixtures("loaded_once")
def test_duplicate_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict) -> None:
    source = write_requests(tmp_path / "in.json", entry | {"id": "a"}, entry | {"id": "a"})
    run, (first, second) = infer(capsys, source)
    assert run.status == 1
    assert first["status"] == "ok"
    assert second["error"] == "requests[1].id: 'a' occurs twice, expected distinct ids"


@pytest.mark.usefixtures("loaded_once")
def test_unknown_field_at_the_top_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict
) -> None:
    run, (response,) = infer(capsys, write_requests(tmp_path / "in.json", entry, streaming=True))
    assert (run.status, response["status"]) == (0, "ok")
    (warning,) = run.complaints
    assert warning.startswith("warning: ")
    assert "streaming" in warning


def _prepared(**changes: Any) -> Callable[[Path], None]:
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
    "patches-missing": (_prepared(pixel_values=None), ["pixel_values: missing"]),
    "grid-missing": (_prepared(image_grid_thw=None), ["image_grid_thw: missing"]),
    "cameras-missing": (_prepared(camera_indices=None), ["camera_indices: missing"]),
    "history-missing": (_prepared(ego_history_xyz=None, ego_history_rot=None), ["ego_history_xyz: missing"]),
    "patches-narrow": (_prepared(pixel_values=lambda a: a[:, :100]), ["pixel_values: shape (240, 100)"]),
    "patches-too-few": (_prepared(pixel_values=lambda a: a[:-1]), ["239 patches", "240"]),
    "patches-nan": (_prepared(pixel_values=_with_nan), ["pixel_values", "not finite"]),
    "patches-whole-numbers": (_prepared(pixel_values=lambda a: a.astype(int)), ["pixel_values", "floats"]),
    "grid-misshapen": (_prepared(image_grid_thw=lambda a: a[:, :2]), ["image_grid_thw: shape (4, 2)"]),
    "grid-odd": (_prepared(image_grid_thw=lambda a: a + 1), ["image_grid_thw"]),
    "grid-for-other-cameras": (
        _prepared(camera_indices=np.array([0, 1, 2])),
        ["4 images cannot be divided over 3 cameras"],
    ),
    "history-nan": (_prepared(ego_history_xyz=_with_nan), ["ego_history_xyz", "not finite"]),
}


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("make", "words"), cases(BAD_PREPARED))
def test_bad_prepared_input(tmp_path: Path, cli: Callable, make: Callable, words: list[str]) -> None:
    make(tmp_path / "p.npz")
    output = tmp_path / "out.json"
    run = cli("infer", "--model", CHECKPOINT, "--prepared", tmp_path / "p.npz", "--output-file", output)
    assert run.status == 1
    (response,) = json.loads(output.read_text())["responses"]
    assert (response["id"], response["status"]) == ("p", "error")
    assert "internal error" not in response["error"]
    for word in words:
        assert word in response["error"]


# ---------------------------------------------------------------------------------------------------------
# The work cannot start: status 2, one line, nothing written.


def cannot_start(run: Any, folder: Path, before: Iterable[Path], words: list[str]) -> None:
    assert run.status == 2
    assert run.out == ""
    (line,) = run.complaints
    assert line.startswith("alpamayo-rt")
    assert "internal error" not in line
    assert len(line) < 600
    for word in words:
        assert word in line
    assert sorted(folder.rglob("*")) == sorted(before), "something was written"


def file_with(content: bytes | str) -> Callable[[Path], list[object]]:
    """A request file with this content."""

    def make(folder: Path) -> list[object]:
        data = content.encode() if isinstance(content, str) else content
        (folder / "in.json").write_bytes(data)
        return ["--model", CHECKPOINT, "--input-file", folder / "in.json"]

    return make


def flags(*more: object) -> Callable[[Path], list[object]]:
    """A good request file, and more arguments; `{folder}` in them is the test's folder."""

    def make(folder: Path) -> list[object]:
        write_requests(folder / "in.json", request(pictures(folder)))
        words = [str(word).replace("{folder}", str(folder)) for word in more]
        return ["--model", CHECKPOINT, "--input-file", folder / "in.json", *words]

    return make


def only(*words: object) -> Callable[[Path], list[object]]:
    return lambda folder: [str(word).replace("{folder}", str(folder)) for word in words]


def prepared(make: Callable[[Path], object], name: str = "p.npz") -> Callable[[Path], list[object]]:
    def arguments(folder: Path) -> list[object]:
        make(folder / name)
        return ["--model", CHECKPOINT, "--prepared", folder / name]

    return arguments


def cut_prepared(path: Path) -> None:
    _prepared()(path)
    cut(path)


def flipped_prepared(path: Path) -> None:
    """A compressed archive with damaged bytes in the middle of its patches."""
    with np.load(CASES / "nav_cfg.npz") as archive:
        np.savez_compressed(path, **{name: archive[name] for name in ("pixel_values", "camera_indices")})
    data = bytearray(path.read_bytes())
    data[1000:1100] = bytes(100)
    path.write_bytes(data)


def bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


MODEL = ("--model", CHECKPOINT)
ENGINE_LINE = ["TensorRT engines are not part of this version", "--model"]

CANNOT_START = {
    "request-file-missing": (only(*MODEL, "--input-file", "{folder}/none.json"), ["none.json: missing"]),
    "request-file-a-folder": (only(*MODEL, "--input-file", "{folder}"), ["not readable as JSON"]),
    "request-file-empty": (file_with(""), ["in.json: not readable as JSON"]),
    "request-file-truncated": (file_with('{"requests": [{"id": "a", "mess'), ["in.json: not readable as JSON"]),
    "request-file-not-json": (file_with("requests: yes"), ["in.json: not readable as JSON"]),
    "request-file-binary": (file_with(b"\x89PNG\xff\xfe\x00"), ["in.json: not readable as JSON"]),
    "request-file-nested": (file_with("[" * 200_000), ["in.json: not readable as JSON"]),
    "request-file-a-list": (file_with("[]"), ["JSON list", "object with requests"]),
    "requests-missing": (file_with("{}"), ["requests: expected a list"]),
    "requests-empty": (file_with('{"requests": []}'), ["requests", "at least one"]),
    "requests-not-a-list": (file_with('{"requests": {"id": "a"}}'), ["requests: expected a list"]),
    "default-candidates-0": (file_with('{"num_candidates": 0, "requests": [{}]}'), ["num_candidates: 0"]),
    "default-temperature-text": (file_with('{"temperature": "hot", "requests": [{}]}'), ["temperature: 'hot'"]),
    "batch-size-0": (file_with('{"batch_size": 0, "requests": [{}]}'), ["batch_size: 0"]),
    "candidates-0": (flags("--num-candidates", "0"), ["num_candidates: 0"]),
    "candidates-negative": (flags("--num-candidates", "-1"), ["num_candidates: -1"]),
    "candidates-fraction": (flags("--num-candidates", "1.5"), ["num_candidates: 1.5"]),
    "candidates-text": (flags("--numCandidates", "six"), ["--num-candidates", "'six'"]),
    "candidates-too-many": (flags("--num-candidates", "1000000"), ["num_candidates: 1000000", "1024"]),
    "steps-0": (flags("--num-diffusion-steps", "0"), ["num_diffusion_steps: 0"]),
    "temperature-negative": (flags("--temperature", "-1"), ["temperature: -1"]),
    "temperature-nan": (flags("--temperature", "nan"), ["temperature: nan"]),
    "top-p-2": (flags("--top-p", "2"), ["top_p: 2"]),
    "top-k-0": (flags("--top-k", "0"), ["top_k: 0"]),
    "seed-negative": (flags("--seed", "-1"), ["seed: -1"]),
    "seed-too-large": (flags("--seed", str(2**64)), [f"seed: {2**64}"]),
    "length-0": (flags("--max-generate-length", "0"), ["max_generate_length: 0"]),
    "flag-unknown": (flags("--num-candidate", "3"), ["--num-candidate"]),
    "flag-without-value": (flags("--seed"), ["--seed"]),
    "no-model": (only("--input-file", "in.json"), ["--model: missing"]),
    "no-source": (only(*MODEL), ["--input-file", "--clip", "--prepared"]),
    "two-sources": (flags("--clip", "c", "--dataset-root", "{folder}"), ["--input-file", "--clip"]),
    "nav-with-request-file": (flags("--nav-text", "left"), ["--nav-text", "--clip", "--prepared"]),
    "question-with-request-file": (flags("--question", "why"), ["--question", "--clip"]),
    "t0-without-clip": (flags("--t0-us", "5100000"), ["--t0-us", "--clip"]),
    "dataset-without-clip": (flags("--dataset-root", "{folder}"), ["--dataset-root", "--clip"]),
    "clip-without-dataset": (only(*MODEL, "--clip", "c"), ["--dataset-root: missing"]),
    "t0-not-a-number": (only(*MODEL, "--clip", "c", "--t0-us", "5.1s"), ["--t0-us", "5.1s"]),
    "history-file-with-clip": (
        only(*MODEL, "--clip", "c", "--dataset-root", "d", "--ego-history-rot-npy", "r.npy"),
        ["--ego-history-rot-npy", "--prepared", "a clip has its history"],
    ),
    "history-file-missing": (
        flags("--ego-history-xyz-npy", "{folder}/n.npy"),
        ["--ego-history-xyz-npy", "n.npy"],
    ),
    "dataset-missing": (
        only(*MODEL, "--clip", "c", "--dataset-root", "{folder}/none"),
        ["dataset_root", "none"],
    ),
    "model-missing": (flags("--model", "{folder}/none"), ["model: ", "none' is neither a folder nor a hub id"]),
    "precision-fp8": (flags("--precision", "fp8"), ["precision: fp8", "fp32"]),
    "precision-unknown": (flags("--precision", "fp64"), ["precision: 'fp64'", "fp32, fp16, bf16"]),
    "device-unknown": (flags("--device", "gpu"), ["device: 'gpu'", "cuda:N"]),
    "device-of-another-kind": (flags("--device", "meta"), ["device: 'meta'"]),
    "device-number-out-of-range": (flags("--device", "cuda:99"), ["device: cuda:99"]),
    "engine-later": (flags("--engine", "graphs"), ["engine: graphs", "eager"]),
    "engine-unknown": (flags("--engine", "steam"), ["engine: 'steam'", "eager"]),
    "engine-dir": (flags("--engine-dir", "e"), ["--engine-dir", *ENGINE_LINE]),
    "multimodal-engine-dir": (flags("--multimodalEngineDir", "e"), ["--multimodal-engine-dir", *ENGINE_LINE]),
    "expert-engine": (flags("--expertEngine", "e"), ["--expert-engine", *ENGINE_LINE]),
    "prepared-missing": (prepared(lambda p: None), ["p.npz: missing"]),
    "prepared-truncated": (prepared(cut_prepared), ["p.npz: not readable"]),
    "prepared-flipped-bits": (prepared(flipped_prepared), ["p.npz: not readable"]),
    "prepared-bare-array": (prepared(bare_array), ["p.npz: not readable"]),
    "prepared-text": (prepared(lambda p: p.write_text("no")), ["p.npz: not readable"]),
    "prepared-texts-for-patches": (
        prepared(_prepared(pixel_values=np.array(["a"]))),
        ["pixel_values", "numbers"],
    ),
    "prepared-objects-for-patches": (
        prepared(_prepared(pixel_values=np.array([{}], dtype=object))),
        ["p.npz: not readable"],
    ),
    "prepared-safetensors-truncated": (
        prepared(lambda p: (save_file({"pixel_values": torch.zeros(9)}, p), cut(p)), "p.safetensors"),
        ["p.safetensors: damaged"],
    ),
    "prepared-safetensors-missing": (prepared(lambda p: None, "p.safetensors"), ["p.safetensors: missing"]),
}


@pytest.mark.parametrize(("arguments", "words"), cases(CANNOT_START))
def test_cannot_start(tmp_path: Path, cli: Callable, arguments: Callable, words: list[str]) -> None:
    argv = arguments(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    dump = ("--dump-kv-cache", tmp_path / "kv")
    run = cli("infer", *argv, "--output-file", tmp_path / "out.json", *dump)
    cannot_start(run, tmp_path, before, words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_on_a_machine_without(tmp_path: Path, cli: Callable) -> None:
    argv = flags("--device", "cuda")(tmp_path)
    cannot_start(
        cli("infer", *argv), tmp_path, sorted(tmp_path.rglob("*")), ["device: cuda", "0 CUDA device(s)"]
    )


def _name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


BAD_OUTPUTS = {
    "folder-missing": (lambda folder: folder / "none" / "out.json", ["out.json", "none does not exist"]),
    "is-a-folder": (lambda folder: folder, ["it is a folder"]),
    "in-a-file": (lambda folder: folder / "in.json" / "out.json", ["in.json is not a folder"]),
    "name-too-long": (_name_too_long, ["cannot be written", "too long"]),
    "is-the-request-file": (lambda folder: folder / "in.json", ["in.json is the --input-file itself"]),
}


@pytest.mark.parametrize(("output", "words"), cases(BAD_OUTPUTS))
def test_bad_output_file(tmp_path: Path, cli: Callable, output: Callable, words: list[str]) -> None:
    argv = flags("--output-file", output(tmp_path))(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    # Without DIR the dumps go beside the output file: that folder must not be made for them first.
    cannot_start(cli("infer", *argv, "--dump-kv-cache"), tmp_path, before, words)


@pytest.mark.usefixtures("loaded_once")
def test_dump_folder_is_a_file(tmp_path: Path, cli: Callable) -> None:
    argv = flags("--output-file", tmp_path / "out.json")(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run = cli("infer", *argv, "--dump-kv-cache", tmp_path / "in.json")
    cannot_start(run, tmp_path, before, ["--dump-kv-cache", "in.json"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no rights stop root")
@pytest.mark.parametrize("unreadable", ["in.json", "out"])
def test_no_permission(tmp_path: Path, cli: Callable, unreadable: str) -> None:
    (tmp_path / "out").mkdir()
    argv = flags("--output-file", tmp_path / "out" / "out.json")(tmp_path)
    (tmp_path / unreadable).chmod(0)
    try:
        run = cli("infer", *argv)
    finally:
        (tmp_path / unreadable).chmod(0o700)
    assert run.status == 2
    assert unreadable in run.complaints[0]


# ---------------------------------------------------------------------------------------------------------
# Checkpoints.


def _config(**changes: Any) -> Callable[[Path], None]:
    """The checkpoint's config with other fields; None takes one out."""

    def change(raw: dict) -> dict:
        return {name: value for name, value in (raw | changes).items() if value is not None}

    return lambda checkpoint: change_json(checkpoint / "config.json", change)


def _tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda checkpoint: change_tensors(checkpoint, change)


def _shards(change: Callable[[Path, list[str]], object]) -> Callable[[Path], object]:
    return lambda checkpoint: change(checkpoint, shard(checkpoint))


def _index(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        shard(checkpoint)
        change_json(
            checkpoint / "model.safetensors.index.json", lambda raw: (change(raw["weight_map"]), raw)[1]
        )

    return damage


def _swap(checkpoint: Path, files: list[str]) -> None:
    first, second = (checkpoint / file for file in files)
    first.rename(checkpoint / "x")
    second.rename(first)
    (checkpoint / "x").rename(second)


def _backbone(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda checkpoint: change(checkpoint.parent / "backbone")


def _one_token_less(backbone: Path) -> None:
    """A backbone of the same sizes whose vocabulary ends one id earlier."""

    def less(raw: dict) -> None:
        raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] != "<|image_pad|>"]

    change_json(backbone / "tokenizer.json", less)
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (backbone / name).unlink()


def _other_sizes(backbone: Path) -> None:
    change_json(backbone / "config.json", lambda raw: raw["text_config"].update(intermediate_size=512))


EXPERT_NORM = "expert.norm.weight"
SUPPORTED = ["alpamayo1_5", "alpamayo_r1"]

BAD_CHECKPOINTS = {
    "no-config": (lambda c: (c / "config.json").unlink(), ["config.json: missing"]),
    "config-not-json": (lambda c: (c / "config.json").write_text("{"), ["config.json: not readable as JSON"]),
    "config-a-list": (lambda c: (c / "config.json").write_text("[]"), ["config.json", "expected an object"]),
    "other-model-type": (_config(model_type="alpamayo3"), ["model_type 'alpamayo3'", *SUPPORTED]),
    "no-model-type": (_config(model_type=None), ["model_type None", *SUPPORTED]),
    "model-type-a-list": (_config(model_type=["a"]), ["model_type ['a']", *SUPPORTED]),
    "quantized": (
        _config(quantization_config={"quant_method": "awq"}),
        ["quantization_config 'awq'", "unquantized", *SUPPORTED],
    ),
    "no-backbone-name": (_config(vlm_name_or_path=None), ["vlm_name_or_path None"]),
    "backbone-folder-missing": (_config(vlm_name_or_path="../nowhere"), ["vlm_name_or_path '../nowhere'"]),
    "config-field-missing": (_config(traj_token_start_idx=None), ["traj_token_start_idx: missing"]),
    "config-field-text": (_config(vocab_size="many"), ["vocab_size: 'many'"]),
    "config-size-0": (_config(tokens_per_history_traj=0), ["tokens_per_history_traj: 0"]),
    "config-section-text": (_config(diffusion_cfg="euler"), ["diffusion_cfg: 'euler', expected an object"]),
    "pixel-limits-crossed": (_config(min_pixels=9999, max_pixels=1), ["min_pixels 9999", "max_pixels 1"]),
    "weights-missing": (lambda c: (c / "model.safetensors").unlink(), ["neither model.safetensors nor"]),
    "weights-truncated": (lambda c: cut(c / "model.safetensors"), ["model.safetensors: truncated"]),
    "weights-empty": (lambda c: (c / "model.safetensors").write_bytes(b""), ["model.safetensors: truncated"]),
    "weights-not-safetensors": (
        lambda c: (c / "model.safetensors").write_bytes(b"\x80\x02pickle" * 9),
        ["model.safetensors: truncated or not"],
    ),
    "tensor-missing": (_tensors(lambda t: t.pop(EXPERT_NORM)), ["1 tensor(s) missing", EXPERT_NORM]),
    "tensor-unexpected": (
        _tensors(lambda t: t.update({"expert.lora": torch.zeros(2)})),
        ["1 tensor(s) unexpected", "expert.lora"],
    ),
    "tensor-misshapen": (
        _tensors(lambda t: t.update({EXPERT_NORM: torch.zeros(5)})),
        ["1 tensor(s) misshapen", EXPERT_NORM, "[5]", "[96]"],
    ),
    "tensor-of-whole-numbers": (
        _tensors(lambda t: t.update({EXPERT_NORM: t[EXPERT_NORM].to(torch.int8)})),
        ["unsupported type", EXPERT_NORM, "I8"],
    ),
    "shard-missing": (
        _shards(lambda c, files: (c / files[1]).unlink()),
        ["00002-of-00002.safetensors: missing"],
    ),
    "shard-truncated": (_shards(lambda c, files: cut(c / files[0])), ["00001-of-00002.safetensors: truncated"]),
    "shards-swapped": (_shards(_swap), ["00001-of-00002.safetensors: holds tensor", "the index places in"]),
    "index-lists-too-much": (
        _index(lambda m: m.update({"expert.ghost": m[EXPERT_NORM]})),
        ["tensor expert.ghost is missing"],
    ),
    "index-lists-too-little": (_index(lambda m: m.pop(EXPERT_NORM)), [EXPERT_NORM, "does not list"]),
    "index-leaves-the-folder": (
        _index(lambda m: m.update({EXPERT_NORM: "../x.safetensors"})),
        ["shard '../x.safetensors'"],
    ),
    "index-with-numbers": (_index(lambda m: m.update({EXPERT_NORM: 1})), ["shard 1 of expert.norm.weight"]),
    "index-not-json": (
        _shards(lambda c, files: (c / "model.safetensors.index.json").write_text("")),
        ["model.safetensors.index.json: not readable"],
    ),
    "backbone-config-missing": (_backbone(lambda b: (b / "config.json").unlink()), ["config.json: missing"]),
    "tokenizer-missing": (_backbone(lambda b: (b / "tokenizer.json").unlink()), ["tokenizer.json: missing"]),
    "tokenizer-damaged": (_backbone(lambda b: cut(b / "tokenizer.json")), ["tokenizer.json: not a tokenizer"]),
    "tokenizer-config-damaged": (
        _backbone(lambda b: (b / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": 1}}')),
        ["tokenizer_config.json: added_tokens_decoder"],
    ),
    "wrong-backbone-vocabulary": (_backbone(_one_token_less), ["token <i0> gets id", "is this its backbone?"]),
    "wrong-backbone-sizes": (_backbone(_other_sizes), ["misshapen", "mlp"]),
}


@pytest.mark.parametrize(("damage", "words"), cases(BAD_CHECKPOINTS))
def test_bad_checkpoint(tmp_path: Path, cli: Callable, damage: Callable, words: list[str]) -> None:
    checkpoint = copy_model(tmp_path / "model")
    damage(checkpoint)
    write_requests(tmp_path / "in.json", request(pictures(tmp_path)))
    before = sorted(tmp_path.rglob("*"))
    source = ("--input-file", tmp_path / "in.json", "--output-file", tmp_path / "out.json", "--dump-kv-cache")
    cannot_start(cli("infer", "--model", checkpoint, *source), tmp_path, before, words)
    cannot_start(cli("inspect", checkpoint), tmp_path, before, words)


def test_sharded_checkpoint_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict
) -> None:
    source = write_requests(tmp_path / "in.json", entry)
    _, (single,) = infer(capsys, source)
    checkpoint = copy_model(tmp_path / "model")
    shard(checkpoint)
    run, (sharded,) = infer(capsys, source, model=checkpoint)
    assert run.status == 0
    assert sharded["trajectories"] == single["trajectories"]


def test_weights_that_are_not_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict) -> None:
    checkpoint = copy_model(tmp_path / "model")
    change_tensors(checkpoint, lambda t: t["action_out_proj.bias"].fill_(NAN))
    run, (response,) = infer(capsys, write_requests(tmp_path / "in.json", entry), model=checkpoint)
    assert run.status == 1
    assert "not finite" in response["error"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody/none", ["nobody/none", "no such folder", "hf download nobody/none"]),
        ("none", ["'none' is neither a folder nor a hub id"]),
        ("a/b..c", ["'a/b..c' is neither a folder nor a valid hub id"]),
    ],
)
def test_hub_id_without_network(tmp_path: Path, name: str, words: list[str]) -> None:
    run = process("inspect", name, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path))
    cannot_start(run, tmp_path, [], words)


def test_model_is_a_file(tmp_path: Path, cli: Callable) -> None:
    weights = CHECKPOINT / "model.safetensors"
    cannot_start(cli("inspect", weights), tmp_path, [], ["model.safetensors is a file"])


# ---------------------------------------------------------------------------------------------------------
# The other commands.


def _case(change: Callable[[Path], object], name: str = "action") -> Callable[[Path], list[object]]:
    def arguments(folder: Path) -> list[object]:
        for ending in (".npz", ".json"):
            shutil.copyfile(CASES / (name + ending), folder / (name + ending))
        change(folder / f"{name}.npz")
        return ["verify", *MODEL, folder / f"{name}.npz"]

    return arguments


def _dump(change: Callable[[Path], object]) -> Callable[[Path, Path], list[object]]:
    def arguments(folder: Path, dump: Path) -> list[object]:
        shutil.copyfile(dump, folder / "d.safetensors")
        change(folder / "d.safetensors")
        return ["replay", folder / "d.safetensors", *MODEL]

    return arguments


def _dumped(
    change: Callable[[dict[str, torch.Tensor]], object] = lambda tensors: None, **metadata: str | None
) -> Callable[[Path, Path], list[object]]:
    """The dump with other tensors or metadata (None takes an entry out)."""

    def rewrite(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            found = file.metadata() | metadata
        change(tensors)
        save_file(tensors, path, {name: value for name, value in found.items() if value is not None})

    return _dump(rewrite)


BAD_CASES = {
    "case-missing": (_case(Path.unlink), ["action.npz: missing"]),
    "case-truncated": (_case(cut), ["action.npz: not a readable .npz"]),
    "case-bare-array": (_case(bare_array), ["action.npz: not a readable .npz"]),
    "case-settings-missing": (_case(lambda p: p.with_suffix(".json").unlink()), ["action.json: missing"]),
    "case-settings-truncated": (_case(lambda p: cut(p.with_suffix(".json"))), ["action.json: not readable"]),
}

BAD_DUMPS = {
    "dump-missing": (_dump(Path.unlink), ["d.safetensors: missing"]),
    "dump-truncated": (_dump(cut), ["d.safetensors: damaged"]),
    "dump-text": (_dump(lambda p: p.write_text("cache")), ["d.safetensors: damaged or no cache dump"]),
    "dump-is-weights": (
        _dump(lambda p: shutil.copyfile(CHECKPOINT / "model.safetensors", p)),
        ["tensor keys is missing", "cache dump"],
    ),
    "dump-of-another-model": (
        _dumped(lambda t: t.update(keys=t["keys"][:3], values=t["values"][:3])),
        ["keys of 3 layers", "model has 4"],
    ),
    "dump-tensor-missing": (_dumped(lambda t: t.pop("noise")), ["tensor noise is missing"]),
    "dump-misshapen": (_dumped(lambda t: t.update(action=t["action"][:1])), ["action has shape (1, 64, 2)"]),
    "dump-of-another-type": (
        _dumped(lambda t: t.update(expert_attended=t["expert_attended"].float())),
        ["expert_attended has type torch.float32"],
    ),
    "dump-without-steps": (_dumped(steps=None), ["metadata steps is missing"]),
    "dump-steps-0": (_dumped(steps="0"), ["metadata is damaged", "num_diffusion_steps: 0"]),
    "dump-weight-text": (_dumped(guidance_weight='"much"'), ["metadata is damaged", "guidance_weight: 'much'"]),
    "dump-sequence-out-of-range": (
        _dumped(sequence_of_candidate="[0, 7]"),
        ["does not fit the sequences [0, 7]"],
    ),
}


@pytest.mark.parametrize(("arguments", "words"), cases(BAD_CASES))
def test_bad_case(tmp_path: Path, cli: Callable, arguments: Callable, words: list[str]) -> None:
    argv = arguments(tmp_path)
    cannot_start(cli(*argv), tmp_path, sorted(tmp_path.rglob("*")), words)


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("arguments", "words"), cases(BAD_DUMPS))
def test_bad_dump(
    tmp_path: Path, cli: Callable, dump_file: Path, arguments: Callable, words: list[str]
) -> None:
    argv = arguments(tmp_path, dump_file)
    cannot_start(cli(*argv), tmp_path, sorted(tmp_path.rglob("*")), words)


@pytest.mark.parametrize(
    ("argv", "word"),
    [((), "COMMAND"), (("drive",), "drive"), (("verify", "--model", "m"), "CASE.npz"), (("replay",), "DUMP")],
)
def test_bad_command(tmp_path: Path, cli: Callable, argv: tuple, word: str) -> None:
    cannot_start(cli(*argv), tmp_path, [], [word])


def test_there_are_forty_kinds_and_more() -> None:
    tables = (BAD_REQUESTS, BAD_PREPARED, CANNOT_START, BAD_OUTPUTS, BAD_CHECKPOINTS, BAD_CASES, BAD_DUMPS)
    assert sum(map(len, tables)) >= 40


# ---------------------------------------------------------------------------------------------------------
# As a process, where nothing stands between the command and the terminal.


def test_as_a_process(tmp_path: Path) -> None:
    entry = request(pictures(tmp_path))
    bad = request(["none\n.png", "1.png"])
    source = write_requests(tmp_path / "in.json", bad, entry)
    before = [*tmp_path.rglob("*"), tmp_path / "out.json"]
    output = ("--output-file", tmp_path / "out.json")
    run = process("infer", *MODEL, "--input-file", source, *output)
    assert run.status == 1
    assert run.complaints == []
    assert [line[:5] for line in run.err.splitlines()] == ["loadi", "[1/2]", "[2/2]", "wrote"]
    assert [r["status"] for r in json.loads((tmp_path / "out.json").read_text())["responses"]] == [
        "error",
        "ok",
    ]
    run = process("infer", *MODEL, "--input-file", tmp_path / "none.json", *output)
    cannot_start(run, tmp_path, before, ["none.json: missing"])


def test_standard_output_that_refuses(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    for where, status in (("/dev/full", 2), ("/dev/null", 0)):
        words = [sys.executable, "-m", "alpamayo_rt", "inspect", str(CHECKPOINT)]
        with open(where, "w") as out:
            done = subprocess.run(words, stdout=out, stderr=subprocess.PIPE, text=True, env=environment())
        assert done.returncode == status
        lines = done.stderr.splitlines()
        assert len(lines) == (where == "/dev/full")
        assert all("standard output: cannot be written" in line for line in lines)


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_closed_standard_streams() -> None:
    command = f"{sys.executable} -m alpamayo_rt inspect {CHECKPOINT}"
    done = subprocess.run(f"{command} >&-", shell=True, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (2, "alpamayo-rt: standard output: closed, expected it open\n")
    done = subprocess.run(f"{command}x 2>&-", shell=True, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")


def test_reader_that_has_gone(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "alpamayo_rt", "inspect", str(CHECKPOINT)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment())
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.usefixtures("loaded_once")
def test_output_to_a_device_does_not_replace_it(cli: Callable) -> None:
    run = cli("infer", *MODEL, "--prepared", CASES / "nav_cfg.npz", "--output-file", os.devnull, *QUICK)
    assert run.status == 0
    assert not Path(os.devnull).is_file()


def test_tensor_names_that_the_tests_use() -> None:
    assert EXPERT_NORM in read_tensors(CHECKPOINT)

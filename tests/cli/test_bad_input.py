# SPDX-License-Identifier: Apache-2.0
"""Bad input, one test a kind: one clear line, the right exit status, and no half-done output.

1: a request failed, the output is written and says which; 2: nothing could start, nothing is written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_requests import BAD_PREPARED, BAD_REQUESTS, prepared_case
from cli_runs import (
    CASES,
    CHECKPOINT,
    MODEL,
    bare_array,
    cannot_start,
    cases,
    cut,
    infer,
    pictures,
    request,
    write_requests,
)
from safetensors.torch import save_file


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
    prepared_case()(path)
    cut(path)


def flipped_prepared(path: Path) -> None:
    """A compressed archive with damaged bytes in the middle of its patches."""
    with np.load(CASES / "nav_cfg.npz") as archive:
        np.savez_compressed(path, **{name: archive[name] for name in ("pixel_values", "camera_indices")})
    data = bytearray(path.read_bytes())
    data[1000:1100] = bytes(100)
    path.write_bytes(data)


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
    "precision-unknown": (flags("--precision", "fp64"), ["precision: 'fp64'", "fp32, fp16, bf16"]),
    "device-unknown": (flags("--device", "gpu"), ["device: 'gpu'", "cuda:N"]),
    "device-of-another-kind": (flags("--device", "meta"), ["device: 'meta'"]),
    "device-number-out-of-range": (flags("--device", "cuda:99"), ["device: cuda:99"]),
    "engine-later": (flags("--engine", "graphs"), ["engine: graphs", "eager"]),
    "engine-unknown": (flags("--engine", "steam"), ["engine: 'steam'", "eager"]),
    "contract-without-export": (flags("--contract", "fused"), ["contract: fused", "onnxruntime"]),
    "engine-of-another-kind": (
        flags("--engine", "eager", "--expert-engine", "e"),
        ["engine: eager", "takes no engine files"],
    ),
    "no-model-and-no-export": (
        only("--engine-dir", "{folder}", "--clip", "world-live:1:1"),
        ["--model: missing", "--engine-dir"],
    ),
    "engine-dir": (flags("--engine-dir", "e"), ["--engine-dir: e is missing", "alpamayo-rt export"]),
    "multimodal-engine-dir": (flags("--multimodalEngineDir", "e"), ["--multimodal-engine-dir: e is missing"]),
    "expert-engine": (flags("--expertEngine", "e"), ["--expert-engine: e is missing"]),
    "prepared-missing": (prepared(lambda p: None), ["p.npz: missing"]),
    "prepared-truncated": (prepared(cut_prepared), ["p.npz: not readable"]),
    "prepared-flipped-bits": (prepared(flipped_prepared), ["p.npz: not readable"]),
    "prepared-bare-array": (prepared(bare_array), ["p.npz: not readable"]),
    "prepared-text": (prepared(lambda p: p.write_text("no")), ["p.npz: not readable"]),
    "prepared-texts-for-patches": (
        prepared(prepared_case(pixel_values=np.array(["a"]))),
        ["pixel_values", "numbers"],
    ),
    "prepared-objects-for-patches": (
        prepared(prepared_case(pixel_values=np.array([{}], dtype=object))),
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


@pytest.mark.parametrize(
    ("function", "name", "words"),
    [("io.open", "in.json", ["in.json: not readable"]), ("os.open", "out.json", ["no permission to write in"])],
)
def test_no_permission(
    tmp_path: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch, function: str, name: str, words: list[str]
) -> None:
    # Simulated: tests may run as root, whom no rights stop.
    argv = flags("--output-file", tmp_path / "out.json")(tmp_path)
    module, _, attribute = function.partition(".")
    original = getattr(sys.modules[module], attribute)

    def refuse(path: object, *more: Any, **options: Any) -> Any:
        if name in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *more, **options)

    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(function, refuse)
    run = cli("infer", *argv)
    monkeypatch.undo()
    cannot_start(run, tmp_path, before, words)


def test_there_are_forty_kinds_and_more() -> None:
    # Here alone; checkpoints, cases and dumps come on top.
    assert sum(map(len, (BAD_REQUESTS, BAD_PREPARED, CANNOT_START, BAD_OUTPUTS))) >= 40

# SPDX-License-Identifier: Apache-2.0
"""Bad recorded cases, dumps and commands; and processes whose terminal or pipe is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_runs import (
    CASES,
    CHECKPOINT,
    MODEL,
    QUICK,
    bare_array,
    cannot_start,
    cases,
    cut,
    environment,
    pictures,
    process,
    request,
    write_requests,
)
from safetensors import safe_open
from safetensors.torch import save_file


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
    "case-bare-array": (_case(bare_array), ["action.npz: holds one array", "archive"]),
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

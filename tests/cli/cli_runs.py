# SPDX-License-Identifier: Apache-2.0
"""How the tests call the command line, and small inputs for it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from alpamayo_rt.cli.main import main

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "tests" / "data" / "alpamayo1_5"
GOLDEN = Path(os.environ.get("ALPAMAYO_RT_GOLDEN", ROOT.parent / "shared" / "golden")) / "alpamayo1_5"
CASES = SHIPPED if (SHIPPED / "model").is_dir() else GOLDEN
CHECKPOINT = CASES / "model" / "checkpoint"

QUICK = ("--max-generate-length", "4", "--num-candidates", "2", "--num-diffusion-steps", "2")
SETTINGS = {"max_generate_length": 4, "num_candidates": 2, "num_diffusion_steps": 2}
CAMERAS = [0, 1]
MODEL = ("--model", CHECKPOINT)
NAN, INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Run:
    """What one call gave."""

    status: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr that are not progress."""
        progress = ("loading ", "[", "wrote ")
        return [line for line in self.err.splitlines() if line and not line.startswith(progress)]


def call(capsys: Any, *argv: object) -> Run:
    """Run the command in this process."""
    capsys.readouterr()
    try:
        status = main([str(word) for word in argv])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return Run(status, out, err)


def environment(**more: str) -> dict[str, str]:
    """Of a process of its own."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def process(*argv: object, **more: str) -> Run:
    """Run the command as a process."""
    words = [sys.executable, "-m", "alpamayo_rt", *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(**more), timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


def infer(
    capsys: Any, source: Path, *more: object, model: Path = CHECKPOINT
) -> tuple[Run, list[dict[str, Any]]]:
    """Answer a request file and read the responses back."""
    output = source.with_name("out.json")
    run = call(capsys, "infer", "--model", model, "--input-file", source, "--output-file", output, *more)
    return run, (json.loads(output.read_text())["responses"] if output.is_file() else [])


def history(speed: float = 5.0) -> tuple[list, list]:
    """Constant speed along x."""
    x = np.arange(-15, 1) * speed * 0.1
    xyz = np.stack([x, 0 * x, 0 * x], -1)
    return xyz.tolist(), np.tile(np.eye(3), (16, 1, 1)).tolist()


def pictures(folder: Path, count: int = 2, height: int = 64, width: int = 96) -> list[str]:
    """PNG files with noise in them; gives their names."""
    names = [f"{n}.png" for n in range(count)]
    for n, name in enumerate(names):
        pixels = np.random.default_rng(n).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def request(images: list[str], **fields: Any) -> dict[str, Any]:
    """A driving request over some images; fields set to None are left out."""
    xyz, rot = history()
    content = [{"type": "image", "image": name} for name in images]
    entry = {
        "messages": [{"role": "user", "content": content}],
        "camera_indices": CAMERAS,
        "ego_history_xyz": xyz,
        "ego_history_rot": rot,
    }
    return {name: value for name, value in (entry | fields).items() if value is not None}


def with_text(entry: dict[str, Any], *texts: str) -> dict[str, Any]:
    """The request with texts after its images."""
    entry = copy.deepcopy(entry)
    entry["messages"][0]["content"] += [{"type": "text", "text": text} for text in texts]
    return entry


def write_requests(path: Path, *entries: Any, **top: Any) -> Path:
    """A request file with quick settings."""
    path.write_text(json.dumps(SETTINGS | top | {"requests": list(entries)}))
    return path


def without_times(response: dict[str, Any]) -> dict[str, Any]:
    """The response but for its milliseconds, which no two runs share."""
    return {name: value for name, value in response.items() if name != "milliseconds"}


def copy_model(to: Path) -> Path:
    """A copy of checkpoint and backbone that a test may damage; gives the checkpoint folder."""
    to.mkdir(parents=True, exist_ok=True)
    for source in CHECKPOINT.parent.rglob("*"):
        target = to / source.relative_to(CHECKPOINT.parent)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    return to / "checkpoint"


def read_tensors(checkpoint: Path) -> dict[str, Any]:
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def change_tensors(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the single shard with other tensors."""
    tensors = read_tensors(checkpoint)
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")


def shard(checkpoint: Path) -> list[str]:
    """Split the single shard in two with an index; gives the shards' names."""
    tensors = read_tensors(checkpoint)
    names = sorted(tensors)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    for file, half in zip(files, halves, strict=True):
        save_file({name: tensors[name] for name in half}, checkpoint / file)
    index = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (checkpoint / "model.safetensors").unlink()
    return files


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))


def cases(table: dict[str, tuple]) -> Any:
    """One test an entry of a table."""
    return [pytest.param(*values, id=name) for name, values in table.items()]


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


def cut(path: Path, parts: int = 2) -> None:
    """Break a file off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // parts])


def bare_array(path: Path) -> None:
    """A .npy file, whatever it is called."""
    with path.open("wb") as file:
        np.save(file, np.zeros(3))

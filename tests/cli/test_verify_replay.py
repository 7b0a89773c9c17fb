# SPDX-License-Identifier: Apache-2.0
"""`inspect`, `verify` and `replay`: what they print, and that they notice what does not agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import CASES, CHECKPOINT, MODEL, Run, pictures, request, write_requests
from safetensors import safe_open
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("loaded_once")


def test_inspect(cli: Callable[..., Run]) -> None:
    found = json.loads(cli("inspect", CHECKPOINT, "--json").out)
    assert found["family"] == "alpamayo1_5"
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"].values())
    text = cli("inspect", CHECKPOINT)
    assert text.status == 0
    for word in ("vision", "<|traj_future_start|>", "curvature", "bf16", f"{found['parameters']:,}"):
        assert word in text.out


def _case(tmp_path: Path, **changes: Any) -> Path:
    shutil.copyfile(CASES / "action.json", tmp_path / "action.json")
    with np.load(CASES / "action.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "action.npz", **(arrays | changes))
    return tmp_path / "action.npz"


def test_verify_passes(cli: Callable[..., Run]) -> None:
    run = cli("verify", *MODEL, CASES / "action.npz", CASES / "vqa.npz", "--json")
    assert run.status == 0
    rows = json.loads(run.out)
    assert {row["case"] for row in rows} == {"action", "vqa"}
    assert all(row["passed"] for row in rows)
    table = cli("verify", *MODEL, CASES / "action.npz")
    assert "5 comparisons in 1 case(s), 0 over their bound" in table.out


def test_verify_fails_on_a_perturbed_array(tmp_path: Path, cli: Callable[..., Run]) -> None:
    with np.load(CASES / "action.npz") as archive:
        speed = archive["v0"].copy()
    speed[3] += 0.01
    path = _case(tmp_path, v0=speed)
    run = cli("verify", *MODEL, path, CASES / "vqa.npz", "--json")
    assert run.status == 1
    assert {(row["case"], row["quantity"]) for row in json.loads(run.out) if not row["passed"]} == {
        ("action", "v0")
    }
    table = cli("verify", *MODEL, path)
    assert table.status == 1
    assert [line.split()[1] for line in table.out.splitlines() if line.endswith("FAIL")] == ["v0"]


def test_verify_fails_on_what_is_not_a_number(tmp_path: Path, cli: Callable[..., Run]) -> None:
    run = cli("verify", *MODEL, _case(tmp_path, v0=np.full(24, np.nan, np.float32)), "--json")
    assert run.status == 1
    assert [row["error"] for row in json.loads(run.out) if not row["passed"]] == [None]


@pytest.mark.parametrize(
    ("name", "value"),
    [("surprise", np.zeros(3, np.float32)), ("v0", np.zeros((2, 2), np.float32)), ("action", np.array(["a"]))],
)
def test_verify_fails_on_arrays_it_does_not_understand(
    tmp_path: Path, cli: Callable[..., Run], name: str, value: np.ndarray
) -> None:
    run = cli("verify", *MODEL, _case(tmp_path, **{name: value}), CASES / "vqa.npz", "--json")
    assert run.status == 1
    rows = json.loads(run.out)
    failed = [row for row in rows if not row["passed"]]
    assert {row["case"] for row in failed} == {"action"}
    # What cannot be compared at all takes its own case, not the next one.
    assert any(row["case"] == "vqa" for row in rows)


def test_verify_fails_on_a_case_without_an_array(tmp_path: Path, cli: Callable[..., Run]) -> None:
    shutil.copyfile(CASES / "vqa.json", tmp_path / "vqa.json")
    with np.load(CASES / "vqa.npz") as archive:
        np.savez(tmp_path / "vqa.npz", **{n: archive[n] for n in archive.files if n != "pixel_values"})
    run = cli("verify", *MODEL, tmp_path / "vqa.npz")
    assert run.status == 1
    assert "array pixel_values is missing" in run.out


# ------------------------------------------------------------------------------------------- replay


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Dumps of the three kinds of rollout."""
    from alpamayo_rt.cli.main import main

    folder = tmp_path_factory.mktemp("dumps")
    entry = request(pictures(folder))
    long = {"max_generate_length": 12, "num_candidates": 3}
    kinds = {
        "single": {},
        "multi": {"multi_seq": True, "temperature": 5.0, "top_p": 1.0},
        "guided": {"nav_text": "Turn left in 40m", "guidance_weight": 1.5},
    }
    source = write_requests(
        folder / "in.json", *(entry | {"id": name} | kind for name, kind in kinds.items()), **long
    )
    argv = [
        "infer",
        *MODEL,
        "--input-file",
        source,
        "--output-file",
        folder / "o.json",
        "--dump-kv-cache",
        folder,
    ]
    assert main([str(word) for word in argv]) == 0
    return {name: folder / f"{name}.safetensors" for name in kinds}


def test_replay_reproduces_dumps(cli: Callable[..., Run], dumps: dict[str, Path]) -> None:
    run = cli("replay", *dumps.values(), *MODEL, "--json")
    assert run.status == 0
    expected = {r["id"]: r for r in json.loads((dumps["single"].parent / "o.json").read_text())["responses"]}
    for (name, _), found in zip(dumps.items(), json.loads(run.out), strict=True):
        assert found["passed"]
        assert found["relative_l2"] < 1e-5
        np.testing.assert_allclose(found["trajectories"], expected[name]["trajectories"], atol=1e-4)
        np.testing.assert_allclose(found["actions"], expected[name]["actions"], atol=1e-4)
    table = cli("replay", dumps["multi"], *MODEL)
    assert table.status == 0
    assert "pass" in table.out


def _tampered(dump: Path, to: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    with safe_open(dump, framework="pt") as file:
        tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file(tensors | {name: change(tensors[name]).contiguous()}, to, metadata)
    return to


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("single", "action", lambda t: t + 0.01),
        ("single", "noise", lambda t: t.flip(0)),
        ("multi", "keys", lambda t: t.flip(1)),
        ("multi", "values", lambda t: t * 1.5),
        ("guided", "unguided_values", lambda t: t * 1.5),
        ("single", "expert_position_ids", lambda t: t.flip(2)),
        ("single", "noise", lambda t: t * torch.nan),
    ],
)
def test_replay_notices_what_was_tampered_with(
    tmp_path: Path, cli: Callable[..., Run], dumps: dict[str, Path], kind: str, name: str, change: Callable
) -> None:
    path = _tampered(dumps[kind], tmp_path / "d.safetensors", name, change)
    run = cli("replay", path, dumps["single"], *MODEL, "--json")
    assert run.status == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert [found["passed"] for found in json.loads(run.out, parse_constant=refuse)] == [False, True]
    table = cli("replay", path, *MODEL)
    assert table.status == 1
    assert "FAIL" in table.out

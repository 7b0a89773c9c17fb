# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt bench` as users call it: the record, comparisons with earlier ones, refusals in one line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runs import CHECKPOINT, ROOT, Run, call, process
from jsonschema import Draft202012Validator

SCHEMA = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
QUICK = ("--device", "cpu", "--repetitions", 1, "--warm-up", 1, "--tokens", 3, "--steps", 2)
RECORDS = sorted((ROOT / "benchmarks" / "results").glob("bench*.json"))
Cli = Callable[..., Run]


def problems(record: Any) -> list[str]:
    return [error.message[:200] for error in Draft202012Validator(SCHEMA).iter_errors(record)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A record, written by a process of its own."""
    out = tmp_path_factory.mktemp("bench") / "record.json"
    run = process(
        "bench", "--model", CHECKPOINT, "--engine", "eager", "--workload", "W6,W1", "--candidates", 2, *QUICK,
        "--soak", 2, "--out", out,
    )  # fmt: skip
    return out, run


@pytest.fixture
def record(made: tuple[Path, Run]) -> dict[str, Any]:
    return json.loads(made[0].read_text())


def changed(record: dict[str, Any], path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    change(record)
    path.write_text(json.dumps(record))
    return path


def test_record(made: tuple[Path, Run], record: dict[str, Any]) -> None:
    out, run = made
    assert run.status == 0, run.err
    assert problems(record) == []
    assert [result["workload"] for result in record["results"]] == ["W6", "W1"]
    assert record["command"].startswith("alpamayo-rt bench --model ")
    for result in record["results"]:
        assert result["n"] == 1
        assert result["settings"]["decode_passes"] == 2
        stages = result["stages_ms"]
        parts = stages["vision"] + stages["prefill"] + 2 * stages["decode_step"] + 2 * stages["expert_step"]
        # Measured by itself, on a busy machine: near the sum, not equal to it.
        assert 0.3 * parts < result["total_ms"] < 5 * parts
        assert result["check"]["passed"]
        assert result["check"]["cache"] < 1e-5
    assert record["results"][0]["soak"]["n"] == 2
    assert record["results"][0]["first_trajectory_s"] > 0
    assert "soak" not in record["results"][1]
    assert [line.split()[:3] for line in run.out.splitlines()[3:5]] == [
        ["W6", "eager", "fp32"],
        ["W1", "eager", "fp32"],
    ]
    progress = [line for line in run.err.splitlines() if line.startswith("[bench] W6 eager fp32: ")]
    assert len(progress) >= 5
    assert [path.name for path in out.parent.iterdir()] == ["record.json"]


def test_nano_is_timed_too(cli: Cli) -> None:
    run = cli("bench", "--model", "nano", "--workload", "W1", "--no-check", *QUICK, "--json")
    assert run.status == 0, run.err
    found = json.loads(run.out)
    assert problems(found) == []
    (result,) = found["results"]
    assert (result["model"], result["precision"], result["prompt_tokens"]) == ("nano", "fp32", 552)
    assert "check" not in result


def test_against_itself_and_a_faster_one(
    made: tuple[Path, Run], record: dict, tmp_path: Path, cli: Cli
) -> None:
    run = cli("bench", "--record", made[0], "--against", made[0])
    assert (run.status, run.complaints) == (0, [])

    def was_faster(record: dict[str, Any]) -> None:
        record["results"][0]["stages_ms"]["prefill"] /= 1.05

    faster = changed(record, tmp_path / "faster.json", was_faster)
    run = cli("bench", "--record", made[0], "--against", faster, "--max-regression", "3%")
    assert run.status == 1
    (line,) = run.complaints
    assert line.startswith("alpamayo-rt: slower: W6 alpamayo1_5 eager fp32 prefill: ")
    assert line.endswith("(+5.0%)")
    assert cli("bench", "--record", made[0], "--against", faster, "--max-regression", "6%").status == 0


def test_another_device_is_refused_before_anything_is_timed(
    made: tuple[Path, Run], record: dict, tmp_path: Path, cli: Cli
) -> None:
    other = changed(record, tmp_path / "other.json", lambda r: r.update(device="NVIDIA H100 80GB HBM3"))
    for words in (["--record", made[0]], ["--model", CHECKPOINT, *QUICK, "--out", tmp_path / "out.json"]):
        run = cli("bench", *words, "--against", other)
        assert run.status == 2
        (line,) = run.err.splitlines()
        assert "was measured on NVIDIA H100 80GB HBM3, this is " in line
    assert not (tmp_path / "out.json").exists()


@pytest.mark.usefixtures("loaded_once")
def test_rests_before_each_run_are_in_the_record_and_not_compared_with_none(
    made: tuple[Path, Run], tmp_path: Path, cli: Cli
) -> None:
    out, began = tmp_path / "record.json", time.monotonic()
    words = ["bench", "--model", CHECKPOINT, "--workload", "W1", *QUICK, "--no-check", "--pause", "0.25"]
    run = cli(*words, "--out", out)
    assert run.status == 0, run.err
    record = json.loads(out.read_text())
    assert problems(record) == []
    (result,) = record["results"]
    assert result["settings"]["pause_s"] == 0.25
    assert time.monotonic() - began > 3 * result["n"] * 0.25
    assert ", after 0.25 s of rest each:" in cli("bench", "--record", out, "--table").out
    assert cli("bench", "--record", out, "--against", out).status == 0
    for rested, other in ((["--record", out], made[0]), (["--record", made[0]], out), (words[1:], made[0])):
        run = cli("bench", *rested, "--against", other)
        assert run.status == 2
        (line,) = run.err.splitlines()
        assert "s before each run, this one rests " in line


@pytest.mark.parametrize("pauses", [("soon", 0), (0, 0.5), (True, True)])
def test_a_record_rests_in_one_way(record: dict, pauses: tuple[Any, Any], tmp_path: Path, cli: Cli) -> None:
    def rest(record: dict[str, Any]) -> None:
        for result, pause in zip(record["results"], pauses, strict=True):
            result["settings"]["pause_s"] = pause

    run = cli("bench", "--record", changed(record, tmp_path / "rests.json", rest), "--table")
    assert (run.status, run.out) == (2, "")
    (line,) = run.complaints
    assert "settings.pause_s: [" in line
    assert "expected one number of seconds for all results" in line


def test_a_failed_check_is_said_and_exits_with_one(record: dict, tmp_path: Path, cli: Cli) -> None:
    def fail(record: dict[str, Any]) -> None:
        record["results"][0]["check"] |= {"passed": False, "failed": ["cache"], "cache": 0.5}

    run = cli("bench", "--record", changed(record, tmp_path / "failed.json", fail))
    assert run.status == 1
    (line,) = run.complaints
    assert "check failed: alpamayo1_5 eager fp32: cache 5.00e-01 (eager " in line


@pytest.mark.usefixtures("loaded_once")
def test_a_run_that_ends_early_keeps_what_is_complete(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alpamayo_rt.bench import run as bench_run

    def too_much(*args: object) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(bench_run, "check", too_much)
    out = tmp_path / "record.json"
    run = cli("bench", "--model", CHECKPOINT, "--workload", "W1", *QUICK, "--out", out)
    assert run.status == 1
    assert "alpamayo-rt: not all was timed: RuntimeError: CUDA out of memory. Tried" in run.complaints[-1]
    record = json.loads(out.read_text())
    assert problems(record) == []
    assert record["results"][0]["total_ms"] > 0
    assert "check" not in record["results"][0]


@pytest.mark.usefixtures("loaded_once")
def test_parts_are_part_of_the_precision_of_a_record(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "record.json"
    words = ["--engine", "eager", "--workload", "W1", *QUICK, "--out", out]
    parts = ["--precision", "fp32,fp8", "--parts", "language,vision"]
    run = cli("bench", "--model", CHECKPOINT, *words, *parts)
    assert run.status == 0, run.err
    record = json.loads(out.read_text())
    assert problems(record) == []
    assert [result["precision"] for result in record["results"]] == ["fp32", "fp8+vision"]
    check = record["results"][1]["check"]
    assert check["passed"]
    assert check["eager_bf16"]["vision"] < check["vision"] == check["eager"]["vision"]
    run = cli("bench", "--record", out, "--against", out)
    assert (run.status, run.complaints) == (0, [])
    assert "| W1 | eager | fp8+vision | " in cli("bench", "--record", out, "--table").out


def test_table_is_made_of_the_record_alone(made: tuple[Path, Run], record: dict, cli: Cli) -> None:
    out = cli("bench", "--record", made[0], "--table").out
    assert out.startswith(f"{record['device']}, {record['date']}, torch ")
    assert record["command"] in out
    total = record["results"][1]["total_ms"]
    assert f"| W1 | eager | fp32 | {total:.2f} |" in out or f"| W1 | eager | fp32 | {total:.1f} |" in out
    assert out.count("| fp32 |") == 4  # two workloads, and two lines of their one check


BAD = {
    "workload": (["--workload", "W6,W9"], ["workload: 'W9'", "W6-cached"]),
    "cached on eager": (["--engine", "eager", "--workload", "W6-cached"], ["W6-cached needs an engine"]),
    "twice": (["--workload", "W6,W6"], ["--workload: 'W6,W6'", "different names"]),
    "precision": (["--precision", "bf16,fp7"], ["precision: 'fp7'"]),
    "parts": (["--precision", "fp8", "--parts", "wheels"], ["parts: wheels, expected some of language"]),
    "parts of none": (
        ["--parts", "vision"],
        ["parts: vision, but the precision is fp32, expected fp8 or int4"],
    ),
    "engine": (["--engine", "onnxruntime"], ["engine: onnxruntime"]),
    "repetitions": (["--repetitions", "0"], ["--repetitions: 0", "from 1 on"]),
    "pause": (["--pause", "-1"], ["--pause: -1", "seconds from 0 to 60"]),
    "no pause": (["--pause", "nan"], ["--pause: nan", "seconds from 0 to 60"]),
    "tokens": (["--tokens", "400"], ["tokens: 400", "from 2 to 256"]),
    "family and model": (["--family", "alpamayo1_5"], ["--family: given with --model"]),
    "share": (["--max-regression", "3"], ["--max-regression: '3'", "3%"]),
    "against": (["--against", "/nowhere.json"], ["/nowhere.json: missing"]),
    "out": (["--out", "/nowhere/record.json"], ["/nowhere/record.json: cannot be written"]),
    "reference": (["--reference", "/nowhere"], ["--reference: /nowhere is no folder"]),
    "number": (["--repetitions", "many"], ["--repetitions", "many"]),
}


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(("words", "said"), BAD.values(), ids=BAD)
def test_bad_arguments(cli: Cli, words: list[str], said: list[str]) -> None:
    run = cli("bench", "--model", CHECKPOINT, *QUICK[:2], *words)
    assert run.status == 2
    assert run.out == ""
    (line,) = run.complaints
    assert line.startswith("alpamayo-rt")
    for word in said:
        assert word in line


def test_a_family_that_does_not_fit_is_refused_with_what_would(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alpamayo_rt import room

    monkeypatch.setattr(room, "_free_bytes", lambda device: 24 * 2**30)
    run = cli("bench", "--family", "alpamayo1_5", *QUICK[:2])
    assert run.status == 2
    (line,) = run.complaints
    assert "precision: fp32 needs 41.3 GiB for weights" in line
    assert "has 24.0 GiB free; fp8 or int4 or fp16 or bf16 would fit" in line


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r.pop("device"),
        lambda r: r["results"].clear(),
        lambda r: r["results"][0].pop("engine"),
        lambda r: r["results"][0].update(total_ms=0),
        lambda r: r["results"][0]["stages_ms"].update(vision="fast"),
        lambda r: r["results"][0]["stages_ms"].pop("prefill"),
        lambda r: r["results"][0].pop("peak_gib"),
    ],
)
def test_damaged_records(record: dict, tmp_path: Path, cli: Cli, damage: Callable) -> None:
    path = changed(record, tmp_path / "damaged.json", damage)
    assert problems(json.loads(path.read_text()))
    run = cli("bench", "--record", path)
    assert run.status == 2
    (line,) = run.complaints
    assert "damaged.json: " in line


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_kept_records_are_valid_and_quoted_verbatim(path: Path, capsys: Any) -> None:
    assert problems(json.loads(path.read_text())) == []
    table = call(capsys, "bench", "--record", path, "--table").out.strip()
    assert table in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_files import PLACE, RECIPE, write_engine

from alpamayo_rt import EngineError
from alpamayo_rt.tensorrt.opening import find_engine, open_sidecar
from alpamayo_rt.tensorrt.sidecar import read_sidecar, sidecar_path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    assert open_sidecar(engine, "expert", PLACE).recipe == RECIPE
    raw = json.loads(sidecar_path(engine).read_text())
    assert (raw["format"], raw["target"], raw["contract"], raw["bytes"]) == (1, "sm120", "shared", 600)


@pytest.mark.parametrize(
    ("changes", "said", "does"),
    [
        ({"target": "sm89"}, "built for sm89, the GPU here is sm120", "--target sm120 --backend tensorrt-rtx"),
        ({"tensorrt": "1.6"}, "built by tensorrt-rtx 1.6, 1.7.1 is installed here", "--target sm120"),
        (
            {"backend": "tensorrt", "tensorrt": "10.9"},
            "built by tensorrt 10.9, that library is not installed here",
            "build-engine",
        ),
        (
            {"model": {"name": "other", "family": "f", "hash": "99"}},
            r"built from model other \(99\), the model is tiny \(0123\)",
            "alpamayo-rt export --model tiny",
        ),
    ],
)
def test_what_does_not_belong_here(tmp_path: Path, changes: dict[str, object], said: str, does: str) -> None:
    engine = write_engine(tmp_path, **changes)
    with pytest.raises(EngineError, match=said) as error:
        open_sidecar(engine, "expert", PLACE)
    assert does in str(error.value)
    assert str(engine) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_engine_of_another_part(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="an engine of the part expert, expected one of language"):
        open_sidecar(write_engine(tmp_path), "language", PLACE)


def test_a_truncated_engine(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(EngineError, match="truncated, 599 bytes, its description says 600"):
        open_sidecar(engine, "expert", PLACE)


def test_a_damaged_engine(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    engine.write_bytes(b"x" + engine.read_bytes()[1:])
    with pytest.raises(EngineError, match="damaged or not the engine"):
        open_sidecar(engine, "expert", PLACE)


def test_an_engine_that_is_gone(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    engine.unlink()
    with pytest.raises(EngineError, match=r"missing, its description sm120.engine.json is there"):
        open_sidecar(engine, "expert", PLACE)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 9}', "null", "\x00"])
def test_a_description_that_is_none(tmp_path: Path, text: str) -> None:
    engine = write_engine(tmp_path)
    sidecar_path(engine).write_text(text)
    with pytest.raises(EngineError, match=r"sm120\.engine\.json: "):
        read_sidecar(engine)


def test_a_missing_description(tmp_path: Path) -> None:
    engine = write_engine(tmp_path)
    sidecar_path(engine).unlink()
    with pytest.raises(EngineError, match="missing, expected what `alpamayo-rt build-engine` wrote"):
        open_sidecar(engine, "expert", PLACE)


@pytest.mark.parametrize("named", ["", "expert", "expert/sm120.engine"])
def test_a_flag_takes_the_folder_the_part_or_the_file(tmp_path: Path, named: str) -> None:
    engine = write_engine(tmp_path)
    assert find_engine(str(tmp_path / named), "expert", "sm120") == engine


def test_engines_of_other_gpus_are_named(tmp_path: Path) -> None:
    write_engine(tmp_path)
    with pytest.raises(
        EngineError, match=r"sm110.engine for this GPU is missing, it has sm120.engine; build"
    ) as e:
        find_engine(str(tmp_path), "expert", "sm110")
    assert f"alpamayo-rt build-engine {tmp_path} --target sm110 --backend tensorrt" in str(e.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"nowhere: missing, expected an engine file or a folder with"):
        find_engine(str(tmp_path / "nowhere"), "expert", "sm120")

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alpamayo_rt import EngineError, InputError
from alpamayo_rt.tensorrt import targets
from alpamayo_rt.tensorrt.profiles import DEFAULTS, Range, parse_ranges, profiles_for, shape_range


@pytest.mark.parametrize("target", ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
def test_rtx_builds_these_anywhere(target: str) -> None:
    targets.check_target(target, "tensorrt-rtx", "engines")


@pytest.mark.parametrize(
    ("target", "where"), [("sm110", "Jetson AGX Thor"), ("sm90", "H100"), ("sm103", "sm103 GPU")]
)
def test_another_target_gives_a_line_with_the_command_and_the_machine(target: str, where: str) -> None:
    command = f"`alpamayo-rt build-engine engines --target {target} --backend tensorrt`"
    with pytest.raises(EngineError, match=r"does not build for sm\d+, expected one of sm75") as error:
        targets.check_target(target, "tensorrt-rtx", "engines")
    assert command in str(error.value)
    assert where in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("here", "said"), [(None, "there is no GPU here"), ("sm90", "the GPU here is sm90")])
def test_full_tensorrt_builds_for_its_own_gpu(
    here: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "this_gpu", lambda: here)
    with pytest.raises(EngineError, match=f"{said}.*on a Jetson AGX Thor"):
        targets.check_target("sm110", "tensorrt", "engines")


def test_full_tensorrt_on_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (11, 0))
    targets.check_target("sm110", "tensorrt", "engines")


@pytest.mark.parametrize("target", ["120", "SM120", "sm", "sm12x", "thor", ""])
def test_what_is_no_target(target: str) -> None:
    with pytest.raises(EngineError, match="--target: "):
        targets.check_target(target, "tensorrt-rtx", "engines")


def test_the_command_that_rebuilds_names_a_backend_that_can() -> None:
    assert targets.rebuild_command("d", "sm110", "tensorrt-rtx").endswith("--target sm110 --backend tensorrt")
    assert targets.rebuild_command("d", "sm89", "tensorrt-rtx").endswith("--target sm89 --backend tensorrt-rtx")


def test_shapes_of_a_profile() -> None:
    profile = {"B": Range(1, 6, 16), "S": Range(2, 30, 40)}
    assert shape_range((72, "B", "S + 64", 128), profile) == (
        (72, 1, 66, 128),
        (72, 6, 94, 128),
        (72, 16, 104, 128),
    )


def test_a_dimension_without_a_range_is_named() -> None:
    with pytest.raises(InputError, match="no range for Q, expected Q=MIN:OPT:MAX"):
        shape_range(("Q",), {"B": Range(1, 1, 1)})


def test_ranges_from_the_command_line_replace_the_defaults() -> None:
    ranges = parse_ranges(["B=1:1:1", "P=64:128:256"])
    (profile,) = profiles_for("expert", ranges)
    assert (profile["B"], profile["P"], profile["T"]) == (
        Range(1, 1, 1),
        Range(64, 128, 256),
        DEFAULTS["expert"][0]["T"],
    )


@pytest.mark.parametrize(
    "text", ["B", "B=1", "B=1:2", "B=2:1:3", "B=1:3:2", "B=0:0:0", "B=-1:1:2", "=1:2:3", "B=1:2:x"]
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(InputError, match="--profile: "):
        parse_ranges([text])


def test_every_named_size_of_the_contracts_has_a_range(golden: Path) -> None:
    from alpamayo_rt.checkpoint import open_checkpoint
    from alpamayo_rt.engine.bindings import CONTRACTS, PARTS, part_bindings

    config = open_checkpoint(str(golden / "alpamayo1_5" / "model" / "checkpoint")).config
    for part in PARTS:
        for contract in CONTRACTS:
            for binding in part_bindings(config, part, contract, torch.float16).inputs:
                for profile in DEFAULTS[part]:
                    low, usual, high = shape_range(binding.shape, profile)
                    assert all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True))

# SPDX-License-Identifier: Apache-2.0
"""What `build-engine` refuses before any TensorRT is opened: one line, exit status 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpamayo_rt.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "thor"], "--target: 'thor', expected sm and a compute capability"),
        (["--target", "sm110"], "does not build for sm110"),
        (["--target", "sm90"], "--backend tensorrt` on an H100 or H200"),
        (["--target", "sm120", "--parts", "wheels"], "--parts: 'wheels', expected some of vision"),
        (
            ["--target", "sm120", "--workspace-mib", "0"],
            "--workspace-mib: 0, expected a whole number from 1 on",
        ),
        (["--target", "sm120", "--profile", "B=6"], "--profile: 'B=6', expected NAME=MIN:OPT:MAX"),
        (["--target", "sm120"], "no vision, language or expert model.onnx"),
        (["--target", "sm120", "--parts", "expert"], "model.onnx: missing, expected what `alpamayo-rt export"),
    ],
)
def test_what_cannot_start(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build-engine", str(tmp_path), "--backend", "tensorrt-rtx", *arguments]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert len(output.err.splitlines()) == 1
    assert output.out == ""
    assert list(tmp_path.iterdir()) == []

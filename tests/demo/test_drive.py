# SPDX-License-Identifier: Apache-2.0
"""Written clips, read through the dataset's kit, driven by the demo model."""

from __future__ import annotations

import json

import pytest

from alpamayo_rt.cli.main import main


def test_drives_what_was_written(tmp_path, capsys):
    pytest.importorskip("physical_ai_av")
    root, pictures = tmp_path / "dataset", tmp_path / "pictures"
    assert main(["world", "make", "--clips", "1", "--seed", "61", "--out", str(root), "--device", "cpu"]) == 0
    command = ["world", "drive", "--model", "nano", "--device", "cpu", "--dataset-root", str(root)]
    assert main([*command, "--out", str(pictures)]) == 0
    said = capsys.readouterr().out
    assert "true cause: lead braking" in said
    assert "minADE6" in said
    assert sorted(path.name for path in pictures.iterdir()) == ["results.json", "world-test-61-000000.png"]
    response = json.loads((pictures / "results.json").read_text())["responses"][0]
    assert response["id"] == "world-test-61-000000"
    assert response["status"] == "ok"
    assert response["metrics"]["min_ade_6"] < 3


def test_an_empty_folder_is_refused(tmp_path, capsys):
    assert main(["world", "drive", "--model", "nano", "--dataset-root", str(tmp_path)]) == 2
    assert "no clips" in capsys.readouterr().err
    assert main(["world", "drive", "--model", "nano", "--dataset-root", str(tmp_path / "none")]) == 2

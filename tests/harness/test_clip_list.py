# SPDX-License-Identifier: Apache-2.0
"""Lists of clips in every public form, and what is wrong with others."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from alpamayo_rt.errors import InputError
from alpamayo_rt.harness.clip_list import ClipRef, read_list, write_list

A, B = "030c760c-ae38-49aa-9ad8-f5650a545d26", "11111111-ae38-49aa-9ad8-f5650a545d26"
REFS = [ClipRef(A, 5_100_000, "Turn left in 40m"), ClipRef(B, None, None)]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"list{suffix}"
    write_list(path, REFS)
    assert read_list(path) == REFS


def test_text_keeps_the_ids(tmp_path):
    path = tmp_path / "list.txt"
    write_list(path, REFS)
    path.write_text(f"# clips\n\n{path.read_text()}  {B}  # twice\n")
    assert read_list(path) == [ClipRef(A), ClipRef(B)]


def test_public_forms(tmp_path):
    pd.DataFrame({"clip_id": [A, B]}).to_parquet(tmp_path / "one-column.parquet")
    assert read_list(tmp_path / "one-column.parquet") == [ClipRef(A), ClipRef(B)]
    pd.DataFrame({"t0_us": [1.0e6]}, index=pd.Index([A], name="clip_id")).to_parquet(tmp_path / "index.parquet")
    assert read_list(tmp_path / "index.parquet") == [ClipRef(A, 1_000_000)]
    rows = [
        {"clip_id": A, "t0": 1_700_000_005_100_000, "clip_start_timestamp": 1_700_000_000_000_000,
         "t0_relative": 5_100_000, "nav_text": "Turn left"},
        {"clip_id": B, "t0": 1_700_000_002_000_000,
         "clip_start_timestamp": 1_700_000_000_000_000, "nav_text": ""},
    ]  # fmt: skip
    (tmp_path / "nav.json").write_text(json.dumps(rows))
    assert read_list(tmp_path / "nav.json") == [ClipRef(A, 5_100_000, "Turn left"), ClipRef(B, 2_000_000)]
    (tmp_path / "ids.json").write_text(json.dumps([A, B, A]))
    assert read_list(tmp_path / "ids.json") == [ClipRef(A), ClipRef(B)]
    (tmp_path / "keys.json").write_text(json.dumps({A: {"t0_us": 7}, B: None}))
    assert read_list(tmp_path / "keys.json") == [ClipRef(A, 7), ClipRef(B)]
    (tmp_path / "subset.csv").write_text(f"clip_id, t0_us\n{A}, 5100000\n{B},\n")
    assert read_list(tmp_path / "subset.csv") == [ClipRef(A, 5_100_000), ClipRef(B)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "clip,t0\nx,1\n", ["columns", "clip_id"]),
        ("b.json", '[{"t0_us": 1}]', ["entry 1", "clip_id"]),
        ("c.json", '[{"clip_id": "x", "t0_us": 1.5}]', ["entry 1", "t0_us", "1.5"]),
        ("d.json", "{", ["cannot be read as json"]),
        ("e.txt", "\n# nothing\n", ["holds none"]),
        ("f.parquet", "no parquet", ["cannot be read as parquet"]),
        ("g.yaml", "x", ["expected one of these forms"]),
        ("h.json", '"x"', ["holds no list"]),
        ("i.csv", "clip_id,t0_us\nx,soon\n", ["entry 1", "'soon'"]),
    ],
)
def test_what_is_no_list_is_said_in_a_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        read_list(tmp_path / name)
    assert "\n" not in str(error.value)
    for word in (name, *words):
        assert word in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_list(tmp_path / "missing.csv")

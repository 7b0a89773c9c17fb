# SPDX-License-Identifier: Apache-2.0
"""A run's folder after every kind of end."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpamayo_rt.errors import InputError
from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.run_folder import RunFolder, read_run

HEADER = {"model": {"name": "m"}, "created": "now", "asked": {"model": "m", "settings": {"seed": 0}}}


def record(n, status="ok"):
    return {
        "clip_id": f"clip-{n}",
        "t0_us": 5,
        "nav_text": None,
        "status": status,
        "metrics": {},
        "error": None,
    }


def filled(path, count, status="ok"):
    with RunFolder(path) as folder:
        folder.begin(HEADER)
        for n in range(count):
            folder.append(record(n, status))


@given(st.integers(1, 400))
def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(tmp_path_factory, bytes_lost):
    path = tmp_path_factory.mktemp("run")
    filled(path, 3)
    results = path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole[: max(0, len(whole) - bytes_lost)])
    with RunFolder(path) as folder:
        folder.begin(HEADER)
        kept = len(folder.records)
        refs = [ClipRef(f"clip-{n}", 5) for n in range(3)]
        left = folder.left(refs)
        assert len(left) == 3 - kept
        for ref in left:
            folder.append(record(int(ref.clip_id[-1])))
    assert results.read_bytes() == whole


def test_the_order_of_lines_is_the_order_in_which_they_came(tmp_path):
    filled(tmp_path, 5)
    assert [r["clip_id"] for r in read_run(tmp_path)[1]] == [f"clip-{n}" for n in range(5)]


def test_one_process_at_a_time(tmp_path):
    with RunFolder(tmp_path) as first, RunFolder(tmp_path) as second:
        first.begin(HEADER)
        with pytest.raises(InputError, match="another process"):
            second.begin(HEADER)
    with RunFolder(tmp_path) as third:
        third.begin(HEADER)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"model": {"name": "other"}}, "model"), ({"asked": {"model": "m", "settings": {"seed": 1}}}, "settings")],
)
def test_another_run_is_not_mixed_in(tmp_path, change, word):
    filled(tmp_path, 1)
    with RunFolder(tmp_path) as folder, pytest.raises(InputError, match=word):
        folder.begin(HEADER | change)
    assert len(read_run(tmp_path)[1]) == 1


def test_a_later_start_is_the_same_run(tmp_path):
    filled(tmp_path, 1)
    with RunFolder(tmp_path) as folder:
        folder.begin(HEADER | {"created": "later"})
    assert read_run(tmp_path)[0]["created"] == "now"


def test_failed_clips_can_be_forgotten(tmp_path):
    filled(tmp_path, 2, "error")
    with RunFolder(tmp_path) as folder:
        folder.begin(HEADER)
        folder.append(record(7))
        assert folder.forget_failed() == 2
        folder.append(record(0))
        with RunFolder(tmp_path) as other, pytest.raises(InputError, match="another process"):
            other.begin(HEADER)
    assert [r["clip_id"] for r in read_run(tmp_path)[1]] == ["clip-7", "clip-0"]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    with RunFolder(tmp_path) as folder:
        folder.begin(HEADER)
        folder.append(record(0))
        real = os.write
        monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:10]))
        with pytest.raises(InputError, match="cannot be written"):
            folder.append(record(1))
        monkeypatch.undo()
        folder.append(record(1))
    assert len(read_run(tmp_path)[1]) == 2


@pytest.mark.parametrize("line", ["no json", "[]", '{"clip_id": "x"}', json.dumps(record(0))])
def test_a_damaged_file_is_named_with_its_line(tmp_path, line):
    filled(tmp_path, 1)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    with RunFolder(tmp_path / "file") as folder, pytest.raises(InputError, match="not the folder of a run"):
        folder.asked()
    with pytest.raises(InputError, match="no run there"):
        read_run(tmp_path)

# SPDX-License-Identifier: Apache-2.0
import os
import stat

import pytest

from alpamayo_rt.atomic import check_writable, write_atomically
from alpamayo_rt.errors import InputError


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    write_atomically(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_rights_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch, call, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, call, fail)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_atomically(path, b"new")
    monkeypatch.undo()
    if expected is InputError:
        assert "No space left on device" in str(caught.value)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_failed_write_of_the_data_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "a", "not bytes")
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"none/a: cannot be written, its folder .*none does not exist"):
        write_atomically(tmp_path / "none" / "a", b"")


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="is not a folder"):
        write_atomically(tmp_path / "file" / "a", b"")


def test_folder_in_place_of_the_file(tmp_path):
    with pytest.raises(InputError, match="it is a folder"):
        write_atomically(tmp_path, b"")


def test_folder_without_permission(tmp_path, monkeypatch):
    # Simulated: tests may run as root, whom no mode stops.
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="no permission to write in"):
        write_atomically(tmp_path / "a", b"")


def test_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write_atomically(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_bytes() == b"x"


def test_device_is_written_to_and_not_replaced():
    write_atomically("/dev/null", b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    # In a folder that others can write to, its name can be foreseen.
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(tmp_path / "precious")
    check_writable(tmp_path / "a")
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(tmp_path / "precious")
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "precious").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a", "precious"]


def test_longest_names(tmp_path):
    for name in ("x" * 255, "図" * 85):
        check_writable(tmp_path / name)
        write_atomically(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    with pytest.raises(InputError, match="too long"):
        check_writable(tmp_path / ("x" * 256))


def test_trial_leaves_the_file_alone(tmp_path):
    (tmp_path / "a").write_text("old")
    check_writable(tmp_path / "a")
    check_writable(tmp_path / "b")
    check_writable("/dev/null")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]

# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old ones or the whole new ones: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from alpamayo_rt.errors import InputError

_NAME_BYTES = 150
"""Of the file's name in the name of the temporary one; a name may have 255 bytes in all."""


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a place where nothing can be written, before work is done for it.

    It is tried, and the trial removed, because rights alone do not tell (read-only and full disks, long names).

    Raises:
        InputError: the folder is missing or cannot be written, or the path is a folder.
    """
    with _explained(path):
        target = _target(path)
        if _is_special(target):
            return
        target.is_file()  # refuses a name that is too long for the disk
        beside = _beside(target)
        os.close(_create(beside))
        beside.unlink()


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    A link is followed: its target is replaced. A device or a pipe is written to as it is. What a killed
    process left behind is removed by the next one that writes the same file.

    Raises:
        InputError: the folder is missing or cannot be written, or the disk refuses the data.
    """
    with _explained(path):
        target = _target(path)
        if _is_special(target):
            yield target
            return
        _remove_leftovers(target)
        beside = _beside(target)
        handle = _create(beside)
        rights = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            # Whoever wrote may have put a file of its own there, with other rights.
            os.chmod(beside, rights)
            os.replace(beside, target)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`, all of it or nothing.

    Raises:
        InputError: as `replacing`.
    """
    with replacing(path) as beside:
        handle = os.open(beside, os.O_WRONLY) if _is_special(beside) else _create(beside)
        with os.fdopen(handle, "wb") as file:
            file.write(data)


def _target(path: str | os.PathLike[str]) -> Path:
    # A device is named through links that only the kernel can follow (/dev/stdout), so it is left as it is.
    given = Path(path)
    target = given if given.exists() and not given.is_file() else Path(os.path.realpath(given))
    if target.is_dir():
        raise InputError(f"{path}: cannot be written, it is a folder, expected a file name")
    return target


def _is_special(target: Path) -> bool:
    """Whether a rename would put a plain file in the place of a device or a pipe."""
    return target.exists() and not target.is_file()


def _beside(target: Path) -> Path:
    return target.with_name(f".{_short_name(target)}.{os.getpid()}.tmp")


def _create(beside: Path) -> int:
    # Mode 0o666 leaves the rights to the umask, as open() does.
    return os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)


def _short_name(target: Path) -> str:
    return os.fsencode(target.name)[:_NAME_BYTES].decode(errors="ignore")


def _remove_leftovers(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(_short_name(target))}\.(\d+)\.tmp")
    for sibling in target.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match and not _is_running(int(match[1])):
            sibling.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _explained(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say of an error of the file system which file could not be written."""
    folder = Path(os.path.realpath(path)).parent
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: cannot be written, its folder {folder} does not exist") from None
    except NotADirectoryError:
        raise InputError(f"{path}: cannot be written, {folder} is not a folder") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be written, no permission to write in {folder}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None

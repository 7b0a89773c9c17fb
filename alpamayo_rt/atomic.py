# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old ones or the whole new ones, never half of something."""

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

    It is tried, and the trial removed: rights alone do not tell (full and read-only disks, long names).

    Raises:
        InputError: the folder is missing or cannot be written, or the path is a folder.
    """
    target = _target(path)
    with _in_one_sentence(path, target):
        if not _is_special(target):
            _remove_leftovers(target)
            beside = _beside(target)
            handle = _create(beside)
            try:
                os.close(handle)
            finally:
                beside.unlink()


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    It lies in the same folder and is gone afterwards whatever happens; what a killed process left behind is
    removed by the next one that writes the same file. A link is followed: its target is replaced. A device or
    a pipe (/dev/null, /dev/stdout) is itself what is written to: a rename would put a plain file in its place.

    Raises:
        InputError: the folder does not exist or cannot be written, or the disk refuses the data.
    """
    target = _target(path)
    with _in_one_sentence(path, target):
        if _is_special(target):
            yield target
            return
        _remove_leftovers(target)
        beside = _beside(target)
        handle = _create(beside)
        try:
            rights = stat.S_IMODE(os.fstat(handle).st_mode)
            os.close(handle)
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            # Whoever wrote may have put a file of its own there, with other rights.
            os.chmod(beside, rights)
            os.replace(beside, target)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that readers see the old content or all of the new.

    Raises:
        InputError: as `replacing`.
    """
    with replacing(path) as beside:
        beside.write_bytes(data)


def _target(path: str | os.PathLike[str]) -> Path:
    given = Path(path)
    with _in_one_sentence(path, given):
        # A device may be named through links that only the kernel can follow (/dev/stdout).
        target = given if _is_special(given) else Path(os.path.realpath(given))
        if target.is_dir():
            raise InputError(f"{path}: cannot be written, it is a folder, expected a file name")
    return target


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _beside(target: Path) -> Path:
    # A dot before the name hides it from listings; the suffix changes, so that no pattern (*.png) finds it.
    return target.with_name(f".{_short_name(target)}.{os.getpid()}.tmp")


def _short_name(target: Path) -> str:
    return os.fsencode(target.name)[:_NAME_BYTES].decode(errors="ignore")


def _create(beside: Path) -> int:
    # O_EXCL never opens a file of somebody else; mode 0o666 leaves the rights to the umask, as open() does.
    return os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


@contextlib.contextmanager
def _in_one_sentence(path: str | os.PathLike[str], target: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: cannot be written, its folder {target.parent} does not exist") from None
    except NotADirectoryError:
        raise InputError(f"{path}: cannot be written, {target.parent} is not a folder") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be written, no permission to write in {target.parent}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _remove_leftovers(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(_short_name(target))}\.(\d+)\.tmp")
    for sibling in target.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match and not is_running(int(match[1])):
            sibling.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether another process of this number may still be at work."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

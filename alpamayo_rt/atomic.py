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


def check_writable(path: Path) -> None:
    """Refuse a place where nothing can be written, before work is done for it.

    Raises:
        InputError: the folder is missing or not writable, or the path is a folder.
    """
    folder = path.parent
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{path}: cannot be written, its folder {folder} {what}")
    if path.is_dir():
        raise InputError(f"{path}: cannot be written, it is a folder, expected a file name")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{path}: cannot be written, no permission to write in {folder}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error.

    It lies in the same folder and is gone afterwards whatever happens; what a killed process left behind is
    removed by the next one that writes the same file. A link is followed: its target is replaced.

    Raises:
        InputError: the folder does not exist or cannot be written, or the disk refuses the data.
    """
    target = Path(os.path.realpath(path))
    with _in_one_sentence(path, target):
        if target.is_dir():
            raise InputError(f"{path}: cannot be written, it is a folder, expected a file name")
        _remove_leftovers(target)
        # A dot before the name hides it from listings; the suffix changes, so that no pattern (*.png) finds it.
        beside = target.parent / f".{target.name[:100]}.{os.getpid()}.tmp"
        # O_EXCL never opens a file of somebody else; mode 0o666 leaves the rights to the umask, as open() does.
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
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
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file() and not target.is_dir():
        # A device or a pipe (/dev/null, /dev/stdout): a rename would put a plain file in its place.
        with _in_one_sentence(path, target), open(target, "wb") as out:
            out.write(data)
        return
    with replacing(path) as beside:
        beside.write_bytes(data)


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
    pattern = re.compile(rf"\.{re.escape(target.name[:100])}\.(\d+)\.tmp")
    for sibling in target.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match and not _is_running(int(match[1])):
            sibling.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

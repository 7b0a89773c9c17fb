# SPDX-License-Identifier: Apache-2.0
"""Files that are either the old ones or the whole new ones, never half of something."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from alpamayo_rt.errors import InputError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` so that readers see the old content or all of the new.

    The bytes go into a temporary file in the same folder, onto the disk, and only then under the name. The
    folder is left without the temporary file whatever happens. A link is followed: its target is replaced.

    Args:
        path: the file; its folder has to exist.
        data: the content.

    Raises:
        InputError: the folder does not exist or cannot be written, or the disk refuses the data.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            _write_special(path, target, data)
        else:
            _replace(target, data)
    except FileNotFoundError:
        raise InputError(f"{path}: cannot be written, its folder {target.parent} does not exist") from None
    except NotADirectoryError:
        raise InputError(f"{path}: cannot be written, {target.parent} is not a folder") from None
    except PermissionError:
        raise InputError(f"{path}: cannot be written, no permission to write in {target.parent}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def _write_special(path: str | os.PathLike[str], target: Path, data: bytes) -> None:
    if target.is_dir():
        raise InputError(f"{path}: cannot be written, it is a folder, expected a file name")
    # A device or a pipe (/dev/null, /dev/stdout): a rename would put a plain file in its place.
    with open(target, "wb") as out:
        out.write(data)


def _replace(target: Path, data: bytes) -> None:
    # A dot before the name hides it from listings; the suffix changes, so that no pattern (*.png) finds it.
    beside = target.parent / f".{target.name[:100]}.{uuid.uuid4().hex}.tmp"
    # O_EXCL never opens a file of somebody else; mode 0o666 leaves the rights to the umask, as open() does.
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise

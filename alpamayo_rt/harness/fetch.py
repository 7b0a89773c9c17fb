# SPDX-License-Identifier: Apache-2.0
"""What some clips need of the dataset: how much it is, bringing it here, and whether what is here is whole."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from alpamayo_rt.errors import DatasetError
from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.hub_dataset import HubProblem, blob_of, hub_problem, snapshot_of
from alpamayo_rt.harness.selection import features_of

GIB = 1024**3
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRIES = 3
_BATCH = 500  # paths that the hub is asked about at once
Say = Callable[[str], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class RemoteFile:
    """One file of the dataset: `sha256` where the hub knows it; whether it is `here` in full."""

    name: str
    size: int
    sha256: str | None
    here: bool


@dataclass(frozen=True)
class Estimate:
    """What clips need."""

    clips: int
    chunks: int
    files: list[RemoteFile]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)

    @property
    def bytes_left(self) -> int:
        """Of those that are not here."""
        return sum(file.size for file in self.files if not file.here)

    def text(self) -> str:
        """One sentence."""
        left = sum(not file.here for file in self.files)
        return (
            f"{self.clips} clip(s) in {self.chunks} chunk(s): {len(self.files)} file(s), "
            f"{size_text(self.bytes)}; to fetch: {left} file(s), {size_text(self.bytes_left)}"
        )


@dataclass(frozen=True)
class Fetched:
    """What came, and what did not, with its cause."""

    files: int
    failed: list[tuple[str, str]]


def size_text(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:.2f} GiB" if count >= GIB / 100 else f"{count / 1024**2:.2f} MiB"


def files_of(kit: Any, refs: Iterable[ClipRef], cameras: Sequence[int]) -> dict[str, list[str]]:
    """The files that hold the clips, and which clips each is needed for."""
    needed: dict[str, list[str]] = {}
    for ref in refs:
        chunk = kit.get_clip_chunk(ref.clip_id)
        for feature in features_of(cameras):
            needed.setdefault(kit.features.get_chunk_feature_filename(chunk, feature), []).append(ref.clip_id)
    return needed


def estimate(kit: Any, root: Path, refs: Sequence[ClipRef], cameras: Sequence[int]) -> Estimate:
    """Ask the hub how large the files are that hold the clips.

    Raises:
        HubProblem: it does not say.
    """
    names = list(files_of(kit, refs, cameras))
    told: dict[str, Any] = {}
    try:
        for start in range(0, len(names), _BATCH):
            for info in kit.api.get_paths_info(paths=names[start : start + _BATCH], **kit.repo_snapshot_info):
                told[info.path] = info
    except Exception as error:
        raise hub_problem(error, "file sizes") from None
    snapshot, files = snapshot_of(root, kit), []
    for name in names:
        if name not in told:
            raise HubProblem(f"{name}: the hub has no such file", fatal=False)
        lfs = getattr(told[name], "lfs", None)
        path = snapshot / name
        here = path.is_file() and path.stat().st_size == told[name].size
        files.append(RemoteFile(name, told[name].size, getattr(lfs, "sha256", None), here))
    return Estimate(len(refs), len({kit.get_clip_chunk(ref.clip_id) for ref in refs}), files)


def fetch(kit: Any, root: Path, plan: Estimate, say: Say) -> Fetched:
    """Bring what is missing; every file is compared with the hub's checksum before it counts.

    Raises:
        HubProblem: the hub refuses all of it; nothing has changed.
        DatasetError: the disk has no room.
    """
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < plan.bytes_left:
        raise DatasetError(
            f"dataset_root: {root} has {size_text(free)} free, expected {size_text(plan.bytes_left)} "
            f"for {plan.clips} clip(s)"
        )
    left = [file for file in plan.files if not file.here]
    return one_by_one(left, lambda file: file.name, lambda file: _bring(kit, root, file, say), say)


def one_by_one(
    items: Sequence[Item], name_of: Callable[[Item], str], bring: Callable[[Item], int], say: Say
) -> Fetched:
    """Bring things, each whole or not at all; one that does not come does not keep the others from coming.

    Args:
        items: what to bring.
        name_of: what to call one.
        bring: brings one and gives its bytes.
        say: is told of each.

    Raises:
        HubProblem: the hub refuses the first one in a way that holds for all.
    """
    failed: list[tuple[str, str]] = []
    for n, item in enumerate(items, 1):
        begun = time.perf_counter()
        try:
            size = bring(item)
        except HubProblem as problem:
            if problem.fatal and n == 1:
                raise
            failed.append((name_of(item), str(problem)))
            say(f"[{n}/{len(items)}] {problem}")
            if problem.fatal:
                failed += [(name_of(other), "not tried") for other in items[n:]]
                break
        else:
            rate = size / 1024**2 / max(time.perf_counter() - begun, 1e-6)
            say(f"[{n}/{len(items)}] {name_of(item)}, {size_text(size)} ({rate:.1f} MiB/s)")
    return Fetched(len(items) - len(failed), failed)


def _bring(kit: Any, root: Path, file: RemoteFile, say: Say) -> int:
    for attempt in range(1, _TRIES + 1):
        try:
            kit.download_file(file.name)
        except Exception as error:
            problem = hub_problem(error, file.name)
            if problem.fatal or attempt == _TRIES:
                raise problem from None
            say(f"{problem}, trying again")
            time.sleep(0.2 * 4 ** (attempt - 1))
            continue
        path = snapshot_of(root, kit) / file.name
        wrong = damage(path, file.sha256, file.size)
        if wrong is None:
            return file.size
        remove(path)
        if attempt == _TRIES:
            raise HubProblem(f"{file.name}: {wrong}, {_TRIES} times; nothing of it is kept", fatal=False)
        say(f"{file.name}: {wrong}, trying again")
    raise AssertionError("unreachable")


def damage(path: Path, sha256: str | None = None, size: int | None = None) -> str | None:
    """What is wrong with a file, None where nothing is.

    Compared with the checksum that is given, else with the one that a hub cache names its files by, else a
    zip is compared with the checksums inside it.
    """
    blob = blob_of(path)
    if not blob.is_file():
        return "is not here"
    if size is not None and blob.stat().st_size != size:
        return f"has {blob.stat().st_size} bytes, expected {size}"
    expected = sha256 or (blob.name if _SHA256.fullmatch(blob.name) else None)
    if expected is not None:
        return None if _hash(blob) == expected else "is damaged, its checksum is another one"
    try:
        with zipfile.ZipFile(blob) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError):
        return "is damaged, it is no zip file"
    return None if bad is None else f"is damaged in {bad}"


def remove(path: Path) -> None:
    """Take a file of a hub cache away, and what its name stands for."""
    blob = blob_of(path)
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def verify(
    kit: Any, root: Path, refs: Sequence[ClipRef], cameras: Sequence[int], say: Say
) -> tuple[int, list[tuple[Path, str, list[str]]]]:
    """Read every file that the clips need.

    Returns:
        How many files there are, and those that are missing or damaged: path, what is wrong, its clips.
    """
    snapshot, wrong = snapshot_of(root, kit), []
    needed = files_of(kit, refs, cameras)
    for n, (name, clips) in enumerate(needed.items(), 1):
        found = damage(snapshot / name)
        if found is not None:
            wrong.append((snapshot / name, found, clips))
        say(f"[{n}/{len(needed)}] {name}{' ' + found if found else ''}")
    return len(needed), wrong


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

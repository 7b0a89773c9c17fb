# SPDX-License-Identifier: Apache-2.0
"""Only the clips themselves: their members, read out of the hub's large files by range, in the dataset's
layout.

The dataset packs many clips into one file a camera. The kit can read a part of such a file where it lies
(`open_file(..., maybe_stream=True)`); what is read is written as `DatasetWriter` writes any clip, whole or
not at all, so that everything that reads the dataset reads these. A member's own checksum is compared by
`zipfile`.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from alpamayo_rt.errors import DatasetError
from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.fetch import Fetched, one_by_one, size_text
from alpamayo_rt.harness.hub_dataset import HubProblem, hub_problem
from alpamayo_rt.harness.selection import describe, features_of
from alpamayo_rt.sample.clip_encoding import zip_members
from alpamayo_rt.sample.clip_writer import DatasetWriter, EncodedClip

_TRIES = 3
Say = Callable[[str], None]


def clip_bytes(kit: Any, refs: Sequence[ClipRef], cameras: Sequence[int], say: Say) -> int:
    """How large the clips' own members are; only the files' directories are read.

    Raises:
        HubProblem: the hub does not say.
    """
    total = 0
    for n, ref in enumerate(refs, 1):
        for feature in features_of(cameras):
            with _remote_zip(kit, ref, feature) as (archive, members):
                total += sum(archive.getinfo(name).file_size for name in members.values())
        say(f"[{n}/{len(refs)}] {ref.clip_id}, {size_text(total)} so far")
    return total


def extract(
    kit: Any, root: Path, refs: Sequence[ClipRef], cameras: Sequence[int], most: float, say: Say
) -> Fetched:
    """Bring the clips that are not in `root` yet, one after the other.

    Args:
        kit: on the hub.
        root: a folder of ours, made where missing.
        refs: which.
        cameras: of the clips.
        most: bytes at most.
        say: is told of every clip.

    Raises:
        HubProblem: the hub refuses all of it.
        DatasetError: `root` holds a copy of the dataset itself, or `most` is reached; what came is kept.
    """
    writer = DatasetWriter(root)
    here = set(writer.written())
    left = [ref for ref in refs if ref.clip_id not in here]
    total = 0

    def bring(ref: ClipRef) -> int:
        nonlocal total
        clip = _with_patience(partial(_read, kit, ref, cameras), say)
        size = sum(map(len, clip.archives.values()))
        if total + size > most:
            raise DatasetError(
                f"--max-gib: reached with {size_text(total)}; allow more, and it goes on from there"
            )
        writer.write(clip)
        total += size
        return size

    return one_by_one(left, lambda ref: ref.clip_id, bring, say)


def _with_patience(work: Callable[[], EncodedClip], say: Say) -> EncodedClip:
    for attempt in range(1, _TRIES + 1):
        try:
            return work()
        except HubProblem as problem:
            if problem.fatal or attempt == _TRIES:
                raise
            say(f"{problem}, trying again")
            time.sleep(0.2 * 4 ** (attempt - 1))
    raise AssertionError("unreachable")


def _read(kit: Any, ref: ClipRef, cameras: Sequence[int]) -> EncodedClip:
    archives = {}
    for feature in features_of(cameras):
        buffer = io.BytesIO()
        with (
            _remote_zip(kit, ref, feature) as (archive, members),
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as ours,
        ):
            for alias, template in zip_members(feature).items():
                ours.writestr(template.format(clip_id=ref.clip_id), archive.read(members[alias]))
        archives[feature] = buffer.getvalue()
    told = describe(kit, ref)
    return EncodedClip(
        ref.clip_id, archives, {k: v for k, v in told.items() if k != "split"}, told["split"], {}
    )


@contextmanager
def _remote_zip(kit: Any, ref: ClipRef, feature: str) -> Iterator[tuple[zipfile.ZipFile, dict[str, str]]]:
    """The file on the hub that holds a clip's feature, and the clip's members in it, by our names of them."""
    chunk = kit.get_clip_chunk(ref.clip_id)
    name = kit.features.get_chunk_feature_filename(chunk, feature)
    theirs = kit.features.get_clip_files_in_zip(ref.clip_id, feature)
    wanted = zip_members(feature)
    members = dict.fromkeys(wanted, next(iter(theirs.values()))) if len(wanted) == len(theirs) == 1 else theirs
    try:
        with kit.open_file(name, maybe_stream=True) as file, zipfile.ZipFile(file) as archive:
            yield archive, members
    except zipfile.BadZipFile as error:
        raise HubProblem(f"{ref.clip_id}: {name} came damaged ({error})", fatal=False) from None
    except Exception as error:  # httpx, fsspec, the hub library: no common base
        raise hub_problem(error, f"{ref.clip_id}: {name}") from None

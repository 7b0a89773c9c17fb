# SPDX-License-Identifier: Apache-2.0
"""The dataset on its hub, through the dataset's own kit, into a folder that is read offline later.

The kit (`physical_ai_av`, read at 0.2.3) knows which files hold a clip and downloads them into a Hugging Face
hub cache; what was cut off goes on where it was. What the kit does not do is look whether a file is whole.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.errors import DatasetError
from alpamayo_rt.sample.clip_writer import REVISION
from alpamayo_rt.sample.dataset_layout import REPO_ID, find_revision, repo_folder
from alpamayo_rt.sample.offline_kit import brief, open_kit, require_data_extra

_PAGE = f"https://huggingface.co/datasets/{REPO_ID}"


class HubProblem(DatasetError):
    """The hub refuses or cannot be reached; `fatal` where every further file would end the same way."""

    def __init__(self, text: str, fatal: bool):
        super().__init__(text)
        self.fatal = fatal


def hub_problem(error: BaseException, what: str) -> HubProblem:
    """What a library's error means for the user, in one sentence."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return HubProblem(
            f"{what}: the hub wants to know who asks (401); accept the terms at {_PAGE}, "
            "then run `hf auth login`",
            True,
        )
    if status == 403 or isinstance(error, errors.GatedRepoError):
        return HubProblem(f"{what}: this account has no access (403); accept the terms at {_PAGE}", True)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubProblem(f"{what}: the hub has no such revision, see {_PAGE}", True)
    if isinstance(error, errors.OfflineModeIsEnabled) or type(error).__name__ == "OfflineModeIsEnabled":
        return HubProblem(f"{what}: HF_HUB_OFFLINE is set, expected a network; unset it to fetch", True)
    if status == 404 or isinstance(error, errors.EntryNotFoundError):
        return HubProblem(f"{what}: the hub has no such file (404)", False)
    return HubProblem(f"{what}: the hub cannot be reached or broke off ({brief(_as_exception(error))})", False)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def local_revision(root: Path) -> str | None:
    """The revision that a folder already has, None for a new one.

    Raises:
        DatasetError: it holds clips that were written here, or several revisions.
    """
    if not repo_folder(root).is_dir() or not any(repo_folder(root).glob("snapshots/*/features.csv")):
        return None
    return find_revision(root)


def open_tables(root: Path, revision: str | None = None) -> Any:
    """The kit with the dataset's tables: from the folder where they are there, else from the hub.

    Raises:
        DatasetError: neither works.
    """
    there = local_revision(root)
    if there is not None and revision in (None, there):
        return open_kit(root, there)
    return open_hub(root, revision)


def open_hub(root: Path | None, revision: str | None = None) -> Any:
    """The kit on the hub; its tables are downloaded, nothing else.

    Args:
        root: the hub cache to fill, made where missing; None for the hub library's own.
        revision: a commit, branch or tag; None for what the folder has, else the hub's `main`.

    Raises:
        DatasetError: the kit is not installed, the folder is not ours to fill, or the hub does not give the
        tables.
    """
    require_data_extra()
    import physical_ai_av

    there = None if root is None else local_revision(root)
    if there == REVISION:
        raise DatasetError(f"dataset_root: {root} holds clips that were written here, choose another folder")
    try:
        kit = physical_ai_av.PhysicalAIAVDatasetInterface(
            revision=revision or there, cache_dir=root, confirm_download_threshold_gb=float("inf")
        )
    except Exception as error:  # httpx, the hub library, pandas: no common base
        raise hub_problem(error, REPO_ID) from None
    if root is None:
        return kit
    reference = repo_folder(root) / "refs" / "main"
    commit = _commit_of(root, kit.revision)
    if commit is not None and not reference.is_file():
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, commit.encode())
    return kit


def _commit_of(root: Path, revision: str) -> str | None:
    named = repo_folder(root) / "refs" / revision
    commit = named.read_text().strip() if named.is_file() else revision
    return commit if (repo_folder(root) / "snapshots" / commit).is_dir() else None


def snapshot_of(root: Path, kit: Any) -> Path:
    """The folder in which the kit's revision lies."""
    return repo_folder(root) / "snapshots" / (_commit_of(root, kit.revision) or kit.revision)


def blob_of(path: Path) -> Path:
    """The file behind the link that a snapshot holds."""
    return Path(os.path.realpath(path))

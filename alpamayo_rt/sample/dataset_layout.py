# SPDX-License-Identifier: Apache-2.0
"""Where a local copy of PhysicalAI-Autonomous-Vehicles keeps its files: a Hugging Face hub cache.

ROOT/datasets--nvidia--PhysicalAI-Autonomous-Vehicles/
    refs/main                                   the revision that `main` was when it was fetched
    snapshots/<revision>/features.csv           where each feature's files are
                         clip_index.parquet     clip id → chunk
                         metadata/…             which clip has which feature, where it was recorded
                         camera/…, labels/…     one zip a feature and chunk
                         extra/<clip id>/…      ours alone: files beside a clip, such as world.json
"""

from __future__ import annotations

from pathlib import Path

from alpamayo_rt.errors import DatasetError

REPO_ID = "nvidia/PhysicalAI-Autonomous-Vehicles"
REPO_FOLDER = "datasets--nvidia--PhysicalAI-Autonomous-Vehicles"
EGOMOTION = "egomotion"


def repo_folder(root: Path) -> Path:
    """The dataset's folder inside the hub cache `root`."""
    return root / REPO_FOLDER


def snapshot_folder(root: Path, revision: str) -> Path:
    """The folder that holds the files of one revision."""
    return repo_folder(root) / "snapshots" / revision


def extra_file(snapshot: Path, clip_id: str, name: str) -> Path:
    """The path of a file that lies beside a clip."""
    return snapshot / "extra" / clip_id / name


def find_revision(root: Path, revision: str | None = None) -> str:
    """Choose the revision to read: the one asked for, else `main`, else the only one there.

    Args:
        root: a hub cache.
        revision: a commit, a branch or a tag that was fetched; None to choose.

    Returns:
        The name of a folder below `snapshots/` that holds a features.csv.

    Raises:
        DatasetError: there is no such folder, or several and nothing says which.
    """
    if not root.is_dir():
        raise DatasetError(f"dataset_root: no folder {root}, expected a Hugging Face hub cache")
    repo = repo_folder(root)
    if not repo.is_dir():
        raise DatasetError(f"dataset_root: {root} holds no {REPO_FOLDER}, expected a hub cache with {REPO_ID}")
    here = sorted(path.parent.name for path in repo.glob("snapshots/*/features.csv"))
    if not here:
        raise DatasetError(f"dataset_root: {repo} holds no snapshot with a features.csv, fetch {REPO_ID} first")
    for name in [revision] if revision is not None else ["main"]:
        reference = repo / "refs" / name
        commit = reference.read_text().strip() if reference.is_file() else name
        if commit in here:
            return commit
    if revision is not None:
        raise DatasetError(f"revision: {revision!r} is not in {repo}, expected one of {', '.join(here)}")
    if len(here) > 1:
        raise DatasetError(f"revision: {repo} holds {', '.join(here)} and no usable refs/main, choose one")
    return here[0]

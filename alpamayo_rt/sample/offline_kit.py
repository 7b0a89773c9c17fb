# SPDX-License-Identifier: Apache-2.0
"""The dataset's developer kit (`physical_ai_av`, read at 0.2.3), kept to the files that are here.

The kit asks the hub for whatever it does not find unless HF_HUB_OFFLINE was set before it was imported,
which would switch off every other use of the hub in the process. Two overrides in a subclass do the same for
one dataset: it reports that it is offline, and its "download" only ever looks into the snapshot.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from alpamayo_rt.errors import DatasetError
from alpamayo_rt.sample.dataset_layout import snapshot_folder


def require_data_extra() -> None:
    """Make sure that the optional packages are there.

    Raises:
        DatasetError: one of them is not installed, or too old for the kit.
    """
    for package in ("physical_ai_av", "av", "pandas", "pyarrow", "scipy"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DatasetError(
                f"dataset clips need the package {error.name or package}: pip install 'alpamayo-rt[data]'"
            ) from error
        except AttributeError as error:  # the kit does not say that it needs scipy ≥ 1.16 (RigidTransform)
            raise DatasetError(
                f"{package} does not fit the packages here ({brief(error)}): "
                "pip install --upgrade 'alpamayo-rt[data]'"
            ) from error


def open_kit(root: Path, revision: str) -> Any:
    """Open the kit's `PhysicalAIAVDatasetInterface` on a local hub cache, without network and global state.

    Args:
        root: the hub cache.
        revision: the name of a folder below `snapshots/`.

    Raises:
        DatasetError: the kit is not installed, or the snapshot's tables are missing or damaged.
    """
    require_data_extra()
    try:
        return _offline_interface()(root, revision)
    except Exception as error:  # whatever pandas, pyarrow or the kit say of a table that they cannot read
        snapshot = snapshot_folder(root, revision)
        raise DatasetError(f"dataset_root: cannot open {snapshot}: {brief(error)}") from error


def brief(error: Exception) -> str:
    """The first line of what a library said, short enough to stand inside one of our sentences."""
    lines = str(error).strip().splitlines()
    text = lines[0].rstrip(".:") if lines else ""
    text = text if len(text) <= 120 else text[:117] + "..."
    return f"{type(error).__name__}, {text}" if text else type(error).__name__


def _offline_interface() -> Any:
    import physical_ai_av

    class OfflineInterface(physical_ai_av.PhysicalAIAVDatasetInterface):
        """The kit's interface to one snapshot on disk."""

        def __init__(self, root: Path, revision: str):
            self._snapshot = snapshot_folder(root, revision)
            # token=False: nobody's saved credentials are looked up for files that are already here.
            super().__init__(revision=revision, cache_dir=root, token=False)

        @property
        def is_offline_mode(self) -> bool:
            return True

        @is_offline_mode.setter
        def is_offline_mode(self, value: bool) -> None:
            pass  # the kit's constructor assigns what the environment says

        def download_file(self, filename: str, **options: Any) -> str:
            path = self._snapshot / filename
            if not path.is_file():
                raise FileNotFoundError(f"no {filename} there")
            return str(path)

    return OfflineInterface

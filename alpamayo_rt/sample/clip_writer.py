# SPDX-License-Identifier: Apache-2.0
"""A small writer of the dataset's on-disk layout, for generated clips and tests that go through the real kit.

The tables and folders are those that `physical_ai_av` 0.2.3 reads. One clip is one chunk, so that a clip is
either complete and indexed, or absent; whatever an interrupted run left is overwritten by the next.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

from alpamayo_rt.errors import DatasetError
from alpamayo_rt.sample.cameras import CAMERA_FEATURES
from alpamayo_rt.sample.clip_encoding import ClipRecording, EncodedClip, encode_recording, zip_members
from alpamayo_rt.sample.dataset_layout import EGOMOTION, extra_file, repo_folder, snapshot_folder
from alpamayo_rt.sample.offline_kit import require_data_extra

__all__ = ["ClipRecording", "DatasetWriter", "EncodedClip", "encode_recording"]

# Snapshots are named by a commit of 40 hex digits; ours names the layout that we write.
REVISION = hashlib.sha1(b"alpamayo-rt clip layout 1", usedforsecurity=False).hexdigest()

_CHUNK_PATHS = {name: f"camera/{name}/{name}.chunk_{{chunk_id:04d}}.zip" for name in CAMERA_FEATURES} | {
    EGOMOTION: f"labels/{EGOMOTION}/{EGOMOTION}.chunk_{{chunk_id:04d}}.zip"
}


class DatasetWriter:
    """Adds clips to a dataset folder that this class made; one writer at a time.

    Args:
        root: becomes a hub cache, created where missing; `ClipDataset(root)` reads it.

    Raises:
        DatasetError: `root` holds a dataset from elsewhere, its tables cannot be read, or the packages of
            `alpamayo-rt[data]` are not installed.
    """

    def __init__(self, root: str | Path):
        require_data_extra()
        self.root = Path(root).expanduser()
        self._snapshot = snapshot_folder(self.root, REVISION)
        repo = repo_folder(self.root)
        main = repo / "refs" / "main"
        there = {path.name for path in repo.glob("snapshots/*")}
        there |= {main.read_text().strip()} if main.is_file() else set()
        if there - {REVISION}:
            raise DatasetError(f"root: {repo} was not made by this writer, choose another folder")
        self._index = self._table("clip_index.parquet")
        self._presence = self._table("metadata/feature_presence.parquet")
        self._collection = self._table("metadata/data_collection.parquet")
        # refs/main last: from then on the folder is a dataset, if an empty one.
        _replace(self._snapshot / "features.csv", _features_csv())
        self._write_tables()
        _replace(main, REVISION.encode())

    def written(self) -> tuple[str, ...]:
        """The ids of the clips that are complete, in the order in which they were written."""
        return tuple(str(clip_id) for clip_id in self._index.index)

    def write(self, clip: ClipRecording | EncodedClip) -> bool:
        """Write one clip, unless a clip of that id is already complete.

        Args:
            clip: a recording, or one that `encode_recording` encoded (elsewhere: encoding is the slow part).

        Returns:
            True if the clip was written, False if it was there already.

        Raises:
            InputError: the recording is wrong; nothing is written.
        """
        if clip.clip_id in self._index.index:
            return False
        encoded = encode_recording(clip) if isinstance(clip, ClipRecording) else clip
        chunk = int(self._index["chunk"].max()) + 1 if len(self._index) else 0
        for feature, template in _CHUNK_PATHS.items():
            path = self._snapshot / template.format(chunk_id=chunk)
            if feature in encoded.archives:
                _replace(path, encoded.archives[feature])
            else:
                path.unlink(missing_ok=True)  # an interrupted clip of the same chunk may have had this camera
        for name, data in sorted(encoded.extra_files.items()):
            _replace(extra_file(self._snapshot, encoded.clip_id, name), data)
        presence = {feature: feature in encoded.archives for feature in _CHUNK_PATHS}
        self._presence = _with_row(self._presence, encoded.clip_id, presence)
        self._collection = _with_row(self._collection, encoded.clip_id, dict(encoded.metadata))
        index_row = {"chunk": chunk, "split": encoded.split, "clip_is_valid": True}
        self._index = _with_row(self._index, encoded.clip_id, index_row)
        self._write_tables()
        return True

    def _table(self, name: str) -> Any:
        import pandas as pd

        path = self._snapshot / name
        if not path.is_file():
            return pd.DataFrame(index=pd.Index([], name="clip_id", dtype=str))
        try:
            return pd.read_parquet(path)
        except Exception as error:
            raise DatasetError(
                f"root: cannot read {path}, remove {repo_folder(self.root)} to start anew"
            ) from error

    def _write_tables(self) -> None:
        # The index last: a clip exists once it is in there, and rows that only the others have do no harm.
        _write_table(self._snapshot / "metadata/feature_presence.parquet", self._presence, list(_CHUNK_PATHS))
        _write_table(self._snapshot / "metadata/data_collection.parquet", self._collection, [])
        _write_table(self._snapshot / "clip_index.parquet", self._index, ["chunk", "split", "clip_is_valid"])


def _features_csv() -> bytes:
    import pandas as pd

    rows = [
        {
            "feature": feature,
            "directory": path.split("/")[0],
            "chunk_path": path,
            "clip_files_in_zip": json.dumps(zip_members(feature)),
        }
        for feature, path in _CHUNK_PATHS.items()
    ]
    return pd.DataFrame(rows).to_csv(index=False).encode()


def _with_row(table: Any, clip_id: str, row: dict[str, Any]) -> Any:
    import pandas as pd

    new = pd.DataFrame([row], index=pd.Index([clip_id], name="clip_id"))
    kept = table.drop(index=clip_id, errors="ignore")
    return pd.concat([kept, new]) if len(kept) else new


def _write_table(path: Path, table: Any, columns: list[str]) -> None:
    if not len(table):
        table = table.reindex(columns=columns)
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    _replace(path, buffer.getvalue())


def _replace(path: Path, data: bytes) -> None:
    """Write beside, then rename: at no time is there half a file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)

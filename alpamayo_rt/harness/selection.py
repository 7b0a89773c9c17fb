# SPDX-License-Identifier: Apache-2.0
"""Which clips of the dataset: by list, split, country, time of day or any column of its tables, N with a
seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alpamayo_rt.errors import InputError
from alpamayo_rt.harness.clip_list import ClipRef, read_list
from alpamayo_rt.sample.cameras import DEFAULT_CAMERAS, camera_features
from alpamayo_rt.sample.dataset_layout import EGOMOTION

HOUR = "hour_of_day"


@dataclass(frozen=True)
class Selection:
    """What is asked for; all of it has to hold. `hours` (6, 9) is from 6:00 to before 9:00, (22, 5) over
    midnight.
    """

    clips: Path | None = None
    split: str | None = None
    country: str | None = None
    hours: tuple[int, int] | None = None
    where: tuple[tuple[str, str], ...] = ()
    number: int | None = None
    seed: int = 0
    cameras: tuple[int, ...] = DEFAULT_CAMERAS


def features_of(cameras: Sequence[int]) -> tuple[str, ...]:
    """The dataset's features that an evaluation reads."""
    return (*camera_features(cameras), EGOMOTION)


def select(kit: Any, selection: Selection) -> tuple[list[ClipRef], list[ClipRef]]:
    """The clips that are asked for, in the list's order or the index's; and those of the list that do not
    exist.

    Raises:
        InputError: a column or a split that the tables do not have, or nothing fits.
    """
    index = kit.clip_index
    listed = (
        [ClipRef(str(name)) for name in index.index] if selection.clips is None else read_list(selection.clips)
    )
    known = set(index.index)
    unknown = [ref for ref in listed if ref.clip_id not in known]
    fits = _fitting(kit, selection)
    refs = [ref for ref in listed if ref.clip_id in fits]
    if not refs:
        raise InputError(f"selection: none of {len(listed)} clip(s) fits ({len(unknown)} are not in the index)")
    if selection.number is not None and selection.number < len(refs):
        # A clip's place in the draw depends on the seed and on the list, not on the number: more keeps the
        # first.
        drawn = np.random.default_rng(selection.seed).permutation(len(refs))[: selection.number]
        refs = [refs[i] for i in sorted(drawn)]
    return refs, unknown


def describe(kit: Any, ref: ClipRef) -> dict[str, str]:
    """What the tables say of a clip."""
    row = kit.clip_index.loc[ref.clip_id]
    told = {"split": str(row.get("split", ""))}
    if ref.clip_id in kit.data_collection.index:
        told |= {str(k): str(v) for k, v in kit.data_collection.loc[ref.clip_id].dropna().items()}
    return told


def _fitting(kit: Any, selection: Selection) -> set[str]:
    index, presence = kit.clip_index, kit.feature_presence
    keep = np.ones(len(index), bool)
    if "clip_is_valid" in index.columns:
        keep &= index["clip_is_valid"].fillna(False).astype(bool).to_numpy()
    for feature in features_of(selection.cameras):
        if feature in presence.columns:
            keep &= presence[feature].reindex(index.index, fill_value=False).astype(bool).to_numpy()
    conditions = list(selection.where)
    if selection.split is not None:
        conditions.append(("split", selection.split))
    if selection.country is not None:
        conditions.append(("country", selection.country))
    for column, value in conditions:
        values = _column(kit, column).astype(str).str.casefold()
        here = (values == value.casefold()).to_numpy()
        if not here.any():
            there = ", ".join(sorted({str(v) for v in _column(kit, column).dropna().unique()})[:20])
            raise InputError(f"selection: no clip has {column} {value!r}, expected one of {there}")
        keep &= here
    if selection.hours is not None:
        first, end = selection.hours
        hour = _column(kit, HOUR).astype(float).to_numpy()
        keep &= (hour >= first) & (hour < end) if first < end else (hour >= first) | (hour < end)
    return {str(name) for name in index.index[keep]}


def _column(kit: Any, name: str) -> Any:
    index, table = kit.clip_index, kit.data_collection
    if name in index.columns:
        return index[name]
    if name in table.columns:
        return table[name].reindex(index.index)
    columns = ", ".join(sorted({*map(str, index.columns), *map(str, table.columns)}))
    raise InputError(f"selection: no column {name!r} in the dataset's tables, expected one of {columns}")

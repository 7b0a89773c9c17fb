# SPDX-License-Identifier: Apache-2.0
"""`--clips SOURCE`: clips of the demo world drawn in memory, or of a local copy of the dataset."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.sample import Sample

HELP = "world-live:SEED:N (N clips drawn in memory), world:ROOT or dataset:ROOT"
_LIVE = re.compile(r"world-live:(\d{1,9}):(\d{1,9})")


def read_clips(source: str, limit: int | None, device: torch.device) -> Iterator[tuple[str, Sample]]:
    """Names and samples, each read when it is asked for.

    Args:
        source: world-live:SEED:N, world:ROOT or dataset:ROOT.
        limit: how many at most; None for all.
        device: where live clips are drawn.

    Raises:
        InputError: no such source, or it holds no clip.
        DatasetError: the dataset cannot be opened.
    """
    live = _LIVE.fullmatch(source)
    kind, _, root = source.partition(":")
    if live is not None:
        count = int(live[2]) if limit is None else min(limit, int(live[2]))
        if count == 0:
            raise InputError(f"clips: {source} holds none, expected at least one")
        return _live(int(live[1]), count, device)
    if kind not in ("world", "dataset") or not root:
        raise InputError(f"clips: {source!r}, expected {HELP}")
    return _recorded(source, root, limit)


def _live(seed: int, count: int, device: torch.device) -> Iterator[tuple[str, Sample]]:
    from alpamayo_rt.demo.live import live_clip

    for number in range(count):
        name = f"world-live:{seed}:{number}"
        yield name, live_clip(name).read(device)[0]


def _recorded(source: str, root: str, limit: int | None) -> Iterator[tuple[str, Sample]]:
    from alpamayo_rt.sample.clips import ClipDataset

    dataset = ClipDataset(root)
    names = dataset.clip_ids()[:limit]
    if not names:
        raise InputError(f"clips: {source} holds none, expected at least one")
    return ((name, dataset.read(name, with_future=False).sample) for name in names)

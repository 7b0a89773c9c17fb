# SPDX-License-Identifier: Apache-2.0
"""What a report shows of a run: figures, curves, and the clips worth looking at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alpamayo_rt.evaluation.intervals import mean_intervals
from alpamayo_rt.evaluation.metrics import Floats, displacements
from alpamayo_rt.evaluation.summary import summarize
from alpamayo_rt.harness.compare_runs import Comparison, compare_runs
from alpamayo_rt.harness.run_folder import PICTURES, SUMMARY, Record, picture_name, read_run

WORST, BEST = 6, 3


@dataclass(frozen=True)
class Horizon:
    """Mean over clips of the best candidate's ADE up to each waypoint, metres; `low`, `high`: its 95 %
    interval.
    """

    seconds: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class RunView:
    """A run as a report needs it."""

    name: str
    path: Path
    header: dict[str, Any]
    records: list[Record]
    summary: dict[str, Any]
    horizon: Horizon | None
    session: dict[str, Any]

    @property
    def title(self) -> str:
        """Model, engine and precision."""
        if self.header["engine"] == "none":
            return str(self.header["model"]["name"]).removeprefix("baseline:").replace("-", " ")
        return f"{self.header['model']['name']}, {self.header['engine']} {self.header['precision']}"

    def good(self) -> list[Record]:
        """The records of the clips that were answered."""
        return [record for record in self.records if record["status"] == "ok"]

    def failed(self) -> list[Record]:
        """The others."""
        return [record for record in self.records if record["status"] != "ok"]

    def errors(self) -> Floats:
        """ADE of the best candidate of each clip, sorted, metres."""
        return np.sort([record["metrics"]["ade_best"] for record in self.good()])

    def worst(self) -> list[Record]:
        """The clips with the largest error, worst first."""
        return sorted(self.good(), key=lambda record: -record["metrics"]["ade_best"])[:WORST]

    def best(self) -> list[Record]:
        """The clips with the smallest error among those that move at all, best first."""
        moving = [record for record in self.good() if np.hypot(*record["true_xy"][-1]) > 5.0]
        picked = sorted(moving or self.good(), key=lambda record: record["metrics"]["ade_best"])
        shown = {record["clip_id"] for record in self.worst()}
        return [record for record in picked if record["clip_id"] not in shown][:BEST]

    def picture(self, record: Record) -> bytes | None:
        """What the cameras saw, a JPEG, where it was kept."""
        path = self.path / PICTURES / picture_name(record)
        return path.read_bytes() if path.is_file() else None

    def causes(self) -> list[tuple[str, int, float]]:
        """Each true cause, its clips, and the share of reasonings that name it."""
        told = [
            (r["true_cause"], r["metrics"]["cause_right"]) for r in self.good() if "cause_right" in r["metrics"]
        ]
        counts = Counter(cause for cause, _ in told)
        return [
            (cause, n, sum(right for c, right in told if c == cause) / n) for cause, n in counts.most_common()
        ]


def view(path: str | Path) -> RunView:
    """Read a run.

    Raises:
        InputError: there is none.
    """
    import json

    folder = Path(path)
    header, records = read_run(folder)
    session: dict[str, Any] = {}
    missing = 0
    if (folder / SUMMARY).is_file():
        kept = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        session, missing = kept.get("last_session") or {}, int(kept.get("missing") or 0)
    good = [record for record in records if record["status"] == "ok"]
    name = folder.resolve().name
    return RunView(name, folder, header, records, summarize(records, missing), _horizon(good), session)


def _horizon(records: list[Record]) -> Horizon | None:
    if not records:
        return None
    curves = []
    for record in records:
        distances = displacements(record["pred_xy"], record["true_xy"])
        reached = np.arange(1, distances.shape[1] + 1)
        curves.append((np.cumsum(distances, 1) / reached).min(0))
    values = np.array(curves)
    low, high = mean_intervals(values, resamples=1000).T
    return Horizon(0.1 * np.arange(1, values.shape[1] + 1), values.mean(0), low, high)


def compare_views(views: list[RunView]) -> list[Comparison]:
    """Every further run against the first, where they have clips in common."""
    from alpamayo_rt.errors import InputError

    found = []
    for other in views[1:]:
        try:
            found.append(compare_runs(views[0].path, other.path))
        except InputError:
            continue
    return found

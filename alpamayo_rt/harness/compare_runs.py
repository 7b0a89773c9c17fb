# SPDX-License-Identifier: Apache-2.0
"""Two runs side by side: paired changes of every metric, and the clips that moved most."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alpamayo_rt.errors import InputError
from alpamayo_rt.evaluation.comparison import MARGIN, Change, compare_metric
from alpamayo_rt.evaluation.metrics import Floats
from alpamayo_rt.harness.run_folder import Record, key_of, read_run

SHOWN = (
    "min_ade_6", "min_ade_1", "ade_mean", "min_fde_6", "miss_rate_6", "corner_distance_6", "heading_error_deg",
    "diversity", "comfortable", "off_bounds", "reasoning_tokens", "cause_right", "branch_right",
)  # fmt: skip
FALLBACK = "ade_best"
_MOVED = 10


@dataclass(frozen=True)
class Moved:
    """A clip and what the main metric is in A and B."""

    clip_id: str
    t0_us: int
    before: float
    after: float


@dataclass(frozen=True)
class Comparison:
    """B against A. `main` is the metric that decides; `notes` are reasons to doubt that they pair."""

    a: str
    b: str
    main: str
    changes: list[Change]
    moved: list[Moved]
    notes: list[str]
    only_a: int
    only_b: int
    failed_only_b: list[str]

    @property
    def verdict(self) -> Change:
        """The change of the main metric."""
        return next(change for change in self.changes if change.name == self.main)

    def to_json(self) -> dict[str, Any]:
        """All fields; what is infinite is null."""
        out = asdict(self) | {"verdict": self.verdict.verdict}
        for change in out["changes"]:
            for name in ("low", "high"):
                change[name] = change[name] if np.isfinite(change[name]) else None
        return out


def compare_runs(a: str | Path, b: str | Path, main: str | None = None, margin: float = MARGIN) -> Comparison:
    """Compare two runs over the clips that both answered.

    Args:
        a: the folder of the run that is the measure.
        b: the folder of the other.
        main: the metric that decides; by default min_ade_6, or the best of all candidates where one has no six.
        margin: what counts as equivalent.

    Raises:
        InputError: no run, no clip in common, or no such metric.
    """
    (header_a, records_a), (header_b, records_b) = read_run(a), read_run(b)
    good_a, good_b = _good(records_a), _good(records_b)
    both = [key for key in good_a if key in good_b]
    if not both:
        raise InputError(f"{a} and {b}: have no answered clip in common, expected at least one")
    pairs = [(good_a[key], good_b[key]) for key in both]
    names = [
        name for name in pairs[0][0]["metrics"] if all(name in r["metrics"] for pair in pairs for r in pair)
    ]
    # A metric that only some clips have (is there a junction?) is compared over those.
    names += [
        name
        for name in dict.fromkeys(n for pair in pairs for n in pair[0]["metrics"])
        if name not in names
        and any(name in first["metrics"] and name in second["metrics"] for first, second in pairs)
    ]
    if main is None:
        main = "min_ade_6" if "min_ade_6" in names else FALLBACK
    if main not in names:
        raise InputError(f"--metric: {main!r} is not in both runs, expected one of {', '.join(names)}")
    changes = [compare_metric(name, *_columns(pairs, name), margin) for name in names]
    before, after = _columns(pairs, main)
    having = [pair for pair in pairs if main in pair[0]["metrics"] and main in pair[1]["metrics"]]
    order = np.argsort(-np.abs(after - before), kind="stable")[:_MOVED]
    moved = [
        Moved(having[i][0]["clip_id"], having[i][0]["t0_us"], float(before[i]), float(after[i]))
        for i in order
        if before[i] != after[i]
    ]
    failed_b = {key_of(record) for record in records_b if record["status"] != "ok"}
    return Comparison(
        str(a), str(b), main, changes, moved, _notes(header_a, header_b, pairs, names),
        len(good_a.keys() - good_b.keys()), len(good_b.keys() - good_a.keys()),
        sorted(key[0] for key in good_a.keys() & failed_b),
    )  # fmt: skip


def _good(records: list[Record]) -> dict[Any, Record]:
    return {key_of(record): record for record in records if record["status"] == "ok"}


def _columns(pairs: list[tuple[Record, Record]], name: str) -> tuple[Floats, Floats]:
    both = [
        (a["metrics"][name], b["metrics"][name])
        for a, b in pairs
        if name in a["metrics"] and name in b["metrics"]
    ]
    values = np.array(both, np.float64)
    return values[:, 0], values[:, 1]


def _notes(
    header_a: dict[str, Any], header_b: dict[str, Any], pairs: list[tuple[Record, Record]], names: list[str]
) -> list[str]:
    found = []
    if any(first["seed"] != second["seed"] for first, second in pairs):
        found.append("the runs have other seeds, so noise and sampling numbers differ as well")
    if any(np.abs(np.subtract(a["true_xy"], b["true_xy"])).max() > 0.01 for a, b in pairs):
        found.append("the true futures differ: these are not the same clips")
    settings = [(header.get("asked") or {}).get("settings") or {} for header in (header_a, header_b)]
    for name in settings[0]:
        if name != "seed" and settings[0][name] != settings[1].get(name):
            found.append(f"{name} differs: {settings[0][name]} and {settings[1].get(name)}")
    if "min_ade_6" not in names:
        found.append("not both runs have six candidates: the best of all that each has is compared")
    return found

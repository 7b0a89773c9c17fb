# SPDX-License-Identifier: Apache-2.0
"""Drives the clips of a written demo world: read through the dataset's kit, compared with the true future."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alpamayo_rt.demo.recording import TRUTH_FILE
from alpamayo_rt.evaluation.metrics import min_ade
from alpamayo_rt.inference import Model
from alpamayo_rt.plot import draw, save
from alpamayo_rt.result import Result
from alpamayo_rt.sample.clips import ClipDataset


@dataclass(frozen=True)
class Drive:
    """One driven clip: its window, true cause and navigation, what the model answered, minADE in metres."""

    clip_id: str
    t0_us: int
    cause: str
    navigation: str | None
    result: Result
    min_ade: float

    def response(self) -> dict[str, object]:
        """The clip's entry in a result file."""
        assert self.result.trajectories is not None
        metrics = {f"min_ade_{len(self.result.trajectories)}": round(self.min_ade, 3)}
        start = {"id": self.clip_id, "status": "ok", "t0_us": self.t0_us}
        return {**start, **self.result.to_json(), "metrics": metrics}


def drive_world(model: Model, root: Path, clips: list[str], pictures: Path | None = None) -> Iterator[Drive]:
    """Drive each of `clips` at its own window, with its own navigation; one picture a clip in `pictures`."""
    dataset = ClipDataset(root)
    for clip_id in clips:
        told = json.loads(dataset.read_extra(clip_id, TRUTH_FILE))
        now = next(w for w in told["windows"] if w["t_us"] == told["t0_us"])
        clip = dataset.read(clip_id, told["t0_us"])
        sample = clip.sample.replaced(navigation=now["navigation"])
        result = model.infer(sample)
        assert result.trajectories is not None
        assert clip.future_xyz is not None
        if pictures is not None:
            title = f"{clip_id}: the true cause is {now['cause'].replace('_', ' ')}"
            save(draw(sample, result, clip.future_xyz, title), pictures / f"{clip_id}.png")
        error = min_ade(result.trajectories.numpy(), clip.future_xyz)
        yield Drive(clip_id, told["t0_us"], now["cause"], now["navigation"], result, error)

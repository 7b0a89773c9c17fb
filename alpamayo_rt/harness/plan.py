# SPDX-License-Identifier: Apache-2.0
"""What one evaluation is asked to do; sent as it is to every worker."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.sources import SourceSpec
from alpamayo_rt.settings import Settings

BASELINE = "baseline:"


@dataclass(frozen=True)
class EvalPlan:
    """Model, engine and clips; `settings` are those of `Model.infer`, their seed that of the whole run.

    `counts`: of how many candidates the best is looked at; `warm_up`: a worker's first clips that are left
    out of the times; `threads`: of a worker on the CPU, None for torch's own choice; `pictures`: keep small
    ones; `parts`: what a narrow precision narrows, None for the language model.
    """

    model: str
    engine: str
    precision: str
    device: str
    source: SourceSpec
    settings: Settings
    counts: tuple[int, ...]
    warm_up: int = 3
    threads: int | None = None
    pictures: bool = True
    engine_files: tuple[tuple[str, str], ...] = ()
    parts: tuple[str, ...] | None = None

    @property
    def baseline(self) -> str | None:
        """The baseline's name, None for a model."""
        return self.model.removeprefix(BASELINE) if self.model.startswith(BASELINE) else None

    @property
    def num_candidates(self) -> int:
        """K."""
        return self.settings.num_candidates

    def inference(self) -> dict[str, Any]:
        """The arguments of `Model.infer` but for the seed, which is the clip's own."""
        return {name: value for name, value in vars(self.settings).items() if name != "seed"}

    def asked(self) -> dict[str, Any]:
        """What two runs of one command have in common, for `run.json`; not how many workers do it."""
        # Runs from before there was a choice say nothing of it.
        narrowed = {} if self.parts is None else {"parts": list(self.parts)}
        return narrowed | {
            "model": self.model,
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device,
            "clips": self.source.identity(),
            "dataset_root": self.source.dataset_root,
            "cameras": list(self.source.cameras),
            "engine_files": dict(self.engine_files),
            "counts": list(self.counts),
            "settings": dict(vars(self.settings)),
        }


def clip_seed(ref: ClipRef, seed: int) -> int:
    """The seed of a clip's noise and sampling: a hash of what the clip is, so that runs pair.

    It depends neither on order, nor on workers, nor on engine and precision.
    """
    text = f"{seed}/{ref.clip_id}@{ref.t0_us}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1

# SPDX-License-Identifier: Apache-2.0
"""A run lets go of what it has timed before its check begins, and before the next precision is loaded."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from situations import SHIPPED

from alpamayo_rt.bench import check as bench_check
from alpamayo_rt.bench import run as bench_run
from alpamayo_rt.bench import subject as bench_subject
from alpamayo_rt.bench.ceilings import Ceilings
from alpamayo_rt.bench.run import Job, run_job
from alpamayo_rt.bench.subject import Subject
from alpamayo_rt.engine.base import Engine
from alpamayo_rt.engine.graphs.engine import GraphEngine
from alpamayo_rt.model.network import Network

CPU = torch.device("cpu")


class Watch:
    """Weak references to all networks and engines that a run made, and what was alive when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.made: list[weakref.ref[Any]] = []
        self.alive: list[tuple[str, int]] = []
        opened, streamed = bench_run.open_subject, bench_check.streamed_network

        def open_subject(*args: Any) -> Subject:
            self._note("load")
            subject = opened(*args)
            self.made.append(weakref.ref(subject.network))
            return subject

        def engine(subject: Subject, name: str, device: torch.device) -> Engine:
            # The fast engine keeps the most: buffers, captured work, features of frames.
            made = GraphEngine(subject.network, subject.config, device, subject.dtype, subject.precision)
            self.made.append(weakref.ref(made))
            return made

        def streamed_network(*args: Any) -> Network:
            self._note(args[-1])
            return streamed(*args)

        monkeypatch.setattr(bench_run, "open_subject", open_subject)
        monkeypatch.setattr(Subject, "engine", engine)
        monkeypatch.setattr(bench_check, "streamed_network", streamed_network)

    def _note(self, when: str) -> None:
        gc.collect()
        self.alive.append((when, sum(ref() is not None for ref in self.made)))


def test_nothing_timed_is_alive_when_the_check_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, kept = Watch(monkeypatch), []
    one_camera = partial(bench_subject.request_of, cameras=(1,))
    monkeypatch.setattr(bench_subject, "request_of", one_camera)
    checkpoint = str(SHIPPED / "model" / "checkpoint")
    job = Job(
        checkpoint, None, ("fp32", "bf16"), "graphs", ("W1",), CPU,
        repetitions=1, warm_up=1, candidates=2, tokens=3, steps=2,
    )  # fmt: skip
    run_job(job, Ceilings(1.0, 1.0, None), lambda line: None, kept.append)
    assert len(watch.made) == 4
    # Two passes for each precision: float32, then the precision itself.
    assert watch.alive == [("load", 0), ("fp32", 0), ("fp32", 0), ("load", 0), ("fp32", 0), ("bf16", 0)]
    assert [result["precision"] for result in kept] == ["fp32", "bf16"]
    assert all(result["check"]["passed"] for result in kept)

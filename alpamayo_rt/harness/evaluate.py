# SPDX-License-Identifier: Apache-2.0
"""From a plan to a finished folder: choose the clips, hand them out, keep what comes, sum it up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from alpamayo_rt.errors import InputError
from alpamayo_rt.evaluation.summary import summarize
from alpamayo_rt.harness.clip_list import ClipRef, write_list
from alpamayo_rt.harness.local_pool import LocalPool
from alpamayo_rt.harness.plan import EvalPlan
from alpamayo_rt.harness.ray_pool import RayPool
from alpamayo_rt.harness.run_folder import MISSING, SUMMARY, RunFolder, check_same
from alpamayo_rt.harness.worker import Outcome
from alpamayo_rt.sample.clip_writer import REVISION
from alpamayo_rt.sample.dataset_layout import snapshot_folder

Say = Callable[[str], None]


class Pool(Protocol):
    """Workers, however many and wherever."""

    workers: int

    def header(self) -> dict[str, Any]:
        """What `run.json` says about how the answers are made."""
        ...

    def run(self, refs: list[ClipRef]) -> Iterator[Outcome]:
        """Evaluate clips."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


@dataclass(frozen=True)
class Work:
    """How a plan is carried out; has no influence on what comes out."""

    out: Path
    limit: int | None = None
    workers: int | None = 1
    cluster: str | None = None
    prefetch: int = 2
    retry_failed: bool = False


@dataclass(frozen=True)
class Finished:
    """What a run came to."""

    summary: dict[str, Any]
    failed: int
    missing: int


def evaluate(plan: EvalPlan, work: Work, say: Say) -> Finished:
    """Evaluate, or go on where an earlier call was ended.

    Raises:
        InputError: clips or folder are not what they should be; nothing was written.
        AlpamayoError: the model, the engine or the workers cannot start; nothing was written.
    """
    refs, missing = choose(plan, work.limit)
    with RunFolder(work.out) as folder:
        there = folder.asked()
        if there is not None:
            check_same(there.get("asked") or {}, plan.asked(), folder.path)
            folder.begin({"asked": plan.asked()})
            if work.retry_failed:
                say(f"{folder.forget_failed()} failed clip(s) are run again")
            say(f"{len(folder.records)} clip(s) are there already")
            if not folder.left(refs):
                return _finish(folder, refs, missing, {})
            folder.close()
        pool = _open_pool(plan, work, len(refs), say)
        try:
            header = pool.header() | {
                "asked": plan.asked(),
                "created": datetime.now(UTC).isoformat("T", "seconds"),
            }
            folder.begin(header)
            _report_missing(folder, missing, plan, say)
            session: dict[str, Any] = {}
            try:
                session = _carry_out(pool, folder, refs, say)
            finally:
                if folder.records:
                    finished = _finish(folder, refs, missing, session)
            return finished
        finally:
            pool.close()


def choose(plan: EvalPlan, limit: int | None) -> tuple[list[ClipRef], list[ClipRef]]:
    """The clips of a run: those that are here, and those that are not.

    Raises:
        InputError: there are none.
    """
    source = plan.source.open()
    refs = source.refs(limit)
    here = source.present(refs)
    found = [ref for ref in refs if ref.clip_id in here]
    missing = [ref for ref in refs if ref.clip_id not in here]
    if not found:
        fetch = f"; fetch them with: {fetch_command(plan.source.clips, plan)}" if missing else ""
        raise InputError(f"clips: none of {len(refs)} in {plan.source.clips} is here{fetch}")
    return found, missing


def fetch_command(clip_list: object, plan: EvalPlan) -> str:
    """What brings the clips of a list here."""
    root = plan.source.dataset_root or "ROOT"
    # Clips that were written one by one, and the dataset's own files, do not mix.
    alone = " --only-clips" if snapshot_folder(Path(root), REVISION).is_dir() else ""
    return f"alpamayo-rt data fetch --clips {clip_list} --dataset-root {root}{alone}"


def _open_pool(plan: EvalPlan, work: Work, clips: int, say: Say) -> Pool:
    if work.cluster is None and work.workers == 1:
        return LocalPool(plan, work.prefetch, say)
    return RayPool(plan, work.workers, work.prefetch, work.cluster, say)


def _report_missing(folder: RunFolder, missing: list[ClipRef], plan: EvalPlan, say: Say) -> None:
    path = folder.path / MISSING
    if missing:
        write_list(path, missing)
        say(f"{len(missing)} clip(s) of the list are not here, {path} names them; {fetch_command(path, plan)}")
    else:
        path.unlink(missing_ok=True)


def _carry_out(pool: Pool, folder: RunFolder, refs: list[ClipRef], say: Say) -> dict[str, Any]:
    left = folder.left(refs)
    done = len(refs) - len(left)
    ends: list[float] = []
    for outcome in pool.run(left):
        folder.append(outcome.record, outcome.picture)
        ends.append(time.perf_counter())
        done += 1
        say(f"[{done}/{len(refs)}] {_told(outcome.record)}{_left(ends, len(refs) - done)}")
    # The first clip of each worker waited for the worker.
    steady, seconds = len(ends) - pool.workers, ends[-1] - ends[min(pool.workers, len(ends)) - 1]
    rate = round(steady / seconds, 4) if steady > 0 and seconds > 0 else None
    return {"clips": len(ends), "workers": pool.workers, "clips_per_second": rate}


def _told(record: dict[str, Any]) -> str:
    if record["status"] != "ok":
        return f"{record['clip_id']}: failed, {record['error']}"
    return f"{record['clip_id']}: ADE of the best {record['metrics']['ade_best']:.2f} m"


def _left(ends: list[float], clips: int) -> str:
    if len(ends) < 5 or not clips:
        return ""
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1) * clips
    return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"


def _finish(
    folder: RunFolder, refs: list[ClipRef], missing: list[ClipRef], session: dict[str, Any]
) -> Finished:
    folder.reread()
    summary = summarize(folder.records, len(missing))
    if session:
        summary["last_session"] = session
    folder.write(SUMMARY, summary)
    return Finished(summary, summary["failed"], len(missing))

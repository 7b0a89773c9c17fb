# SPDX-License-Identifier: Apache-2.0
"""Several workers through Ray on one CPU: the same answers, and each exactly once, whoever is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from eval_runs import QUICK, answers, arguments, evaluate, lines, only_once, process, start, wait_for

pytestmark = pytest.mark.ray

CLIPS = 12


def workers(errors: Path) -> list[int]:
    """The process ids of the workers that are ready."""
    return [int(pid) for pid in re.findall(r"worker process (\d+) is ready", errors.read_text())]


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one worker without Ray."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    assert evaluate(run, *QUICK, clips=f"world-live:0:{CLIPS}") == 0
    return run


def test_two_workers_answer_as_one_does_and_the_runs_are_equivalent(tmp_path, alone):
    run = tmp_path / "run"
    done = process(arguments(run, *QUICK, "--workers", 2, clips=f"world-live:0:{CLIPS}"))
    assert done.returncode == 0, done.stderr
    only_once(run, CLIPS)
    assert answers(run) == answers(alone)
    assert {json.loads(line)["worker"] for line in lines(run)} == {"0", "1"}
    told = process(["compare", str(alone), str(run), "--require", "equivalent", "--metric", "ade_best"])
    assert told.returncode == 0, told.stdout


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(tmp_path, alone):
    run, errors = tmp_path / "run", tmp_path / "errors"
    running = start(arguments(run, *QUICK, "--workers", 2, clips=f"world-live:0:{CLIPS}"), errors)
    wait_for(lambda: len(lines(run)) >= 2, running)
    os.kill(workers(errors)[0], signal.SIGKILL)
    assert running.wait(240) == 0
    said = errors.read_text()
    assert re.search(r"worker 0 died with \d clip\(s\) under way; they are run again", said)
    assert "Traceback" not in said
    only_once(run, CLIPS)
    assert answers(run) == answers(alone)


def test_the_main_process_killed_leaves_no_process_and_goes_on(tmp_path, alone):
    run, errors = tmp_path / "run", tmp_path / "errors"
    command = arguments(run, *QUICK, "--workers", 2, clips=f"world-live:0:{CLIPS}")
    running = start(command, errors)
    wait_for(lambda: len(lines(run)) >= 3, running)
    pids = workers(errors)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = [line for line in lines(run) if line.endswith("\n")]
    wait_for(lambda: not any(alive(pid) for pid in pids), seconds=60)
    # With another number of workers it is the same run.
    done = process(arguments(run, *QUICK, "--workers", 1, clips=f"world-live:0:{CLIPS}"))
    assert done.returncode == 0, done.stderr
    assert lines(run)[: len(kept)] == kept
    only_once(run, CLIPS)
    assert answers(run) == answers(alone)


def test_a_clip_that_kills_its_worker_is_recorded_and_the_others_are_answered(tmp_path):
    """A source whose third clip takes the process with it, as a decoder of a damaged video can."""
    import ray

    from alpamayo_rt.harness.clip_list import ClipRef
    from alpamayo_rt.harness.plan import EvalPlan
    from alpamayo_rt.harness.ray_pool import RayPool
    from alpamayo_rt.harness.sources import LiveSource, SourceSpec
    from alpamayo_rt.settings import Settings

    class Deadly(LiveSource):
        def read(self, ref, with_images=True):
            if ref.clip_id.endswith("2"):
                os._exit(3)
            return super().read(ref, with_images)

    class Spec(SourceSpec):
        def open(self):
            return Deadly(0, 6)

    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    plan = EvalPlan(
        "baseline:constant-velocity", "auto", "auto", "cpu", Spec("x"), Settings(), (1, 6), threads=1
    )
    pool = RayPool(plan, 2, 2, None, lambda line: None)
    try:
        refs: list[ClipRef] = Deadly(0, 6).refs()
        outcomes = list(pool.run(refs))
    finally:
        pool.close()
    told = {outcome.ref.clip_id[-1]: outcome.record["status"] for outcome in outcomes}
    assert len(outcomes) == 6
    assert told == {"0": "ok", "1": "ok", "2": "error", "3": "ok", "4": "ok", "5": "ok"}
    assert "died twice" in next(o.record["error"] for o in outcomes if o.record["status"] == "error")


def test_a_cluster_of_two_machines(tmp_path, alone):
    """Two nodes of one core each, by their address; this process only hands out."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        run = tmp_path / "run"
        words = arguments(run, *QUICK, "--cluster", cluster.address, clips=f"world-live:0:{CLIPS}")
        done = process(words)
        assert done.returncode == 0, done.stderr
        assert len(re.findall(r"worker process \d+ is ready", done.stderr)) == 2
        only_once(run, CLIPS)
        assert answers(run) == answers(alone)
    finally:
        cluster.shutdown()
    done = process(arguments(tmp_path / "none", "--cluster", "127.0.0.1:9"))
    assert done.returncode == 2
    assert "nobody answers at 127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "none").exists()


def _busy() -> float:
    """How much of the machine others use, from 0 to 1, over a second."""

    def times() -> tuple[int, int]:
        values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(values), values[3] + values[4]

    (total, idle), _ = times(), time.sleep(1)
    total2, idle2 = times()
    return 1 - (idle2 - idle) / max(total2 - total, 1)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores: part of make test-all")
def test_two_workers_are_at_least_1_6_times_as_fast_as_one(tmp_path):
    """One thread a worker, two cores; waits for others to be idle, and measures up to three times."""

    def rate(name: str, count: int) -> float:
        run = tmp_path / name
        # Nothing is made ready ahead: one worker would else use the other core for that.
        words = ("--workers", count, "--no-pictures", "--prefetch", 0)
        done = process(arguments(run, *words, clips="world-live:0:40"))
        assert done.returncode == 0, done.stderr
        return float(json.loads((run / "summary.json").read_text())["last_session"]["clips_per_second"])

    found = []
    for attempt in range(3):
        end = time.monotonic() + 60
        while _busy() > 0.25 and time.monotonic() < end:
            time.sleep(5)
        found.append(rate(f"two-{attempt}", 2) / rate(f"one-{attempt}", 1))
        if found[-1] >= 1.6:
            return
    raise AssertionError(f"two workers were only {max(found):.2f} times as fast as one ({found})")

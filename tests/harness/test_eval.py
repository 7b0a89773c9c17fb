# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt eval` in one process: what it writes, how it goes on, what it refuses."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from eval_runs import QUICK, answers, arguments, evaluate, lines, only_once, process, records, start, wait_for

from alpamayo_rt import load
from alpamayo_rt.demo.world import World
from alpamayo_rt.evaluation.metrics import min_ade
from alpamayo_rt.harness.clip_list import ClipRef
from alpamayo_rt.harness.plan import clip_seed


def test_a_run_holds_what_the_interface_promises(driven):
    header = json.loads((driven / "run.json").read_text())
    assert header["model"]["name"] == "nano"
    assert (header["engine"], header["precision"]) == ("eager", "fp32")
    assert header["asked"]["settings"]["num_candidates"] == 3
    assert header["versions"]["torch"] == torch.__version__
    for record in records(driven):
        assert record["status"] == "ok"
        assert np.shape(record["pred_xy"]) == (3, 64, 2)
        assert np.shape(record["true_xy"]) == (64, 2)
        assert round(record["pred_xy"][0][0][0], 3) == record["pred_xy"][0][0][0]
        assert record["reasoning"][0]
        assert record["stop_reasons"] == ["finished"]
        assert {"min_ade_1", "min_ade_2", "min_ade_3", "min_fde_3", "miss_rate_3"} <= record["metrics"].keys()
        assert record["metrics"]["cause_right"] in (0, 1)
        assert record["milliseconds"]["total"] > record["milliseconds"]["expert"] > 0
        again = min_ade(np.array(record["pred_xy"]), np.array(record["true_xy"]))
        assert again == pytest.approx(record["metrics"]["min_ade_3"], abs=1e-3)
        assert (driven / "pictures" / f"{record['clip_id']}_{record['t0_us']}.jpg").is_file()
    summary = json.loads((driven / "summary.json").read_text())
    assert (summary["clips"], summary["failed"], summary["missing"]) == (6, 0, 0)
    values = [record["metrics"]["min_ade_3"] for record in records(driven)]
    figures = summary["metrics"]["min_ade_3"]
    assert figures["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert figures["median"] == pytest.approx(np.median(values), abs=1e-5)
    assert figures["p90"] == pytest.approx(np.quantile(values, 0.9), abs=1e-5)
    assert figures["ci95"][0] < figures["mean"] < figures["ci95"][1]
    assert summary["timing"]["steady"]
    assert summary["timing"]["clips"] == 3  # three were warm-up
    assert summary["stop_reasons"] == {"finished": 6}


def test_a_record_is_what_the_model_answers_alone(driven):
    """The harness prepares images elsewhere and hands the model patches; nothing of that may show."""
    model, world = load("nano", "eager", "fp32", "cpu"), World(0)
    for record in records(driven)[:2]:
        index = int(record["clip_id"][-6:])
        sample, _ = world.sample(index)
        seed = clip_seed(ClipRef(record["clip_id"], record["t0_us"]), 0)
        assert record["seed"] == seed
        result = model.infer(sample, num_candidates=3, num_diffusion_steps=4, seed=seed)
        assert result.reasoning == record["reasoning"]
        np.testing.assert_allclose(result.trajectories[..., :2], record["pred_xy"], atol=2e-3)


def test_seeds_depend_on_the_clip_and_the_run_alone():
    a, b = ClipRef("a", 1), ClipRef("a", 2)
    assert clip_seed(a, 0) == clip_seed(ClipRef("a", 1, "Turn left"), 0) != clip_seed(b, 0)
    assert clip_seed(a, 0) != clip_seed(a, 1)
    assert all(0 <= clip_seed(ClipRef(str(n), 0), 0) < 2**31 for n in range(100))


def test_more_clips_later_go_on(tmp_path):
    run, model = tmp_path / "run", "baseline:constant-velocity"
    assert evaluate(run, "--limit", 3, model=model) == 0
    first = lines(run)
    assert evaluate(run, "--limit", 5, model=model) == 0
    assert lines(run)[:3] == first
    only_once(run, 5)
    assert json.loads((run / "summary.json").read_text())["clips"] == 5


def test_a_finished_run_is_not_touched_and_needs_no_model(tmp_path, turning, monkeypatch):
    import alpamayo_rt.harness.worker

    monkeypatch.setattr(alpamayo_rt.harness.worker, "make_predictor", None)
    before = lines(turning)
    assert evaluate(turning, model="baseline:constant-turn-rate", clips="world-live:0:40") == 0
    assert lines(turning) == before


def test_baselines_are_what_they_are_called(straight, turning):
    for record in records(straight)[:5]:
        xy = np.array(record["pred_xy"])
        assert xy.shape == (6, 64, 2)
        assert np.ptp(xy, axis=0).max() == 0
        assert np.abs(xy[..., 1]).max() == 0
        steps = np.diff(xy[0, :, 0])
        assert np.ptp(steps) < 0.0025
        assert record["metrics"]["min_ade_6"] == record["metrics"]["min_ade_1"]
        assert record["reasoning"] == []
    assert max(np.abs(np.array(r["pred_xy"])[..., 1]).max() for r in records(turning)) > 1


def test_a_clip_that_fails_is_recorded_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    from alpamayo_rt.errors import InputError
    from alpamayo_rt.harness.sources import LiveSource

    real = LiveSource.read

    def read(self, ref, with_images=True):
        if ref.clip_id.endswith("2"):
            raise InputError("clip: its video is damaged")
        if ref.clip_id.endswith("3"):
            raise ZeroDivisionError("nobody foresaw this")
        return real(self, ref, with_images)

    monkeypatch.setattr(LiveSource, "read", read)
    run, model = tmp_path / "run", "baseline:constant-velocity"
    assert evaluate(run, model=model) == 1
    only_once(run, 6)
    failed = {r["clip_id"][-1]: r["error"] for r in records(run) if r["status"] == "error"}
    assert failed == {
        "2": "clip: its video is damaged",
        "3": "internal error, ZeroDivisionError: nobody foresaw this",
    }
    assert "2 failed" in capsys.readouterr().out
    monkeypatch.undo()
    assert evaluate(run, model=model) == 1  # failed clips have their record
    assert evaluate(run, "--retry-failed", model=model) == 0
    only_once(run, 6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--clips", "nowhere"], "clips: 'nowhere'"),
        (["--clips", "world-live:0"], "expected world-live:SEED:N"),
        (["--clips", "dataset:/nowhere"], "no folder /nowhere"),
        (["--model", "baseline:wings"], "baseline:constant-velocity"),
        (["--model", "no/such/model"], "no/such/model"),
        (["--engine", "steam"], "steam"),
        (["--precision", "fp1"], "fp1"),
        (["--num-candidates", "0"], "num_candidates: 0"),
        (["--best-of", "7"], "--best-of: 7"),
        (["--limit", "0"], "--limit: 0"),
        (["--workers", "0"], "--workers: 0"),
        (["--temperature", "-1"], "temperature: -1"),
    ],
)
def test_what_cannot_start_says_why_and_writes_nothing(tmp_path, capsys, words, said):
    run = tmp_path / "run"
    assert evaluate(run, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]
    assert not run.exists()


def test_another_model_does_not_go_on_in_the_same_folder(turning, capsys):
    before = lines(turning)
    assert evaluate(turning, model="baseline:constant-velocity", clips="world-live:0:40") == 2
    assert "constant-turn-rate" in capsys.readouterr().err
    assert lines(turning) == before


def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path):
    """`kill -9` in the middle; no clip is lost, none is run again, and the answers are those of one run."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = arguments(run, *QUICK, clips="world-live:0:8")
    running = start(command, tmp_path / "errors")
    wait_for(lambda: len(lines(run)) >= 3, running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = [line for line in lines(run) if line.endswith("\n")]
    assert 3 <= len(kept) < 8
    with (run / "results.jsonl").open("a") as file:
        file.write('{"clip_id": "world-test-0-0000')  # what a kill within a write leaves
    done = process(command)
    assert done.returncode == 0
    assert lines(run)[: len(kept)] == kept
    only_once(run, 8)
    assert evaluate(whole, *QUICK, clips="world-live:0:8") == 0
    assert answers(run) == answers(whole)
    assert not list(run.glob(".*"))


def test_ctrl_c_ends_with_a_sentence_and_keeps_what_there_is(tmp_path):
    run = tmp_path / "run"
    running = start(arguments(run, *QUICK, clips="world-live:0:40"), tmp_path / "errors")
    wait_for(lambda: len(lines(run)) >= 2, running)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    said = (tmp_path / "errors").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("alpamayo-rt: interrupted")
    assert json.loads((run / "summary.json").read_text())["clips"] == len(lines(run)) >= 2


def test_a_gpu_that_fails_ends_the_run_in_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    import alpamayo_rt.harness.predictors as predictors

    run, model = tmp_path / "run", "baseline:constant-velocity"
    real, done = predictors.BaselinePredictor.predict, []

    def predict(self, situation, seed):
        if len(done) == 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        done.append(seed)
        return real(self, situation, seed)

    monkeypatch.setattr(predictors.BaselinePredictor, "predict", predict)
    assert evaluate(run, "--prefetch", 0, model=model) == 2
    assert "the GPU has failed" in capsys.readouterr().err.splitlines()[-1]
    assert len(lines(run)) == 3
    monkeypatch.undo()
    assert evaluate(run, model=model) == 0
    only_once(run, 6)

# SPDX-License-Identifier: Apache-2.0
"""`compare` and `report` on runs of the demo world: verdicts, exit statuses, a page that holds all it says."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from eval_runs import evaluate, records

from alpamayo_rt.cli.main import main


def changed(run: Path, to: Path, change) -> Path:
    """A copy of a run with other metrics."""
    shutil.copytree(run, to)
    rows = records(run)
    for n, row in enumerate(rows):
        change(row, n)
    (to / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return to


def scaled(factor):
    def change(row, n):
        row["metrics"] = {name: value * factor for name, value in row["metrics"].items()}

    return change


def compare(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["compare", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_run_against_itself_is_equivalent(turning, capsys):
    status, out, _ = compare(
        capsys, turning, turning, "--require", "equivalent", "--max-regression", "0.1%", "--json"
    )
    assert status == 0
    told = json.loads(out)
    assert told["verdict"] == "equivalent"
    assert told["main"] == "min_ade_6"
    assert {change["verdict"] for change in told["changes"]} == {"equivalent"}
    assert told["moved"] == []


def test_a_planted_degradation_of_three_percent_is_worse(turning, tmp_path, capsys):
    worse = changed(turning, tmp_path / "worse", scaled(1.03))
    status, out, _ = compare(capsys, turning, worse, "--json")
    assert (status, json.loads(out)["verdict"]) == (0, "worse")
    assert compare(capsys, turning, worse, "--require", "equivalent")[0] == 1
    status, _, err = compare(capsys, turning, worse, "--max-regression", "2%")
    assert status == 1
    assert "min_ade_6 is worse by 3.00 %, more than 2 %" in err
    assert compare(capsys, turning, worse, "--max-regression", "4%")[0] == 0
    assert compare(capsys, worse, turning, "--max-regression", "1%")[0] == 0, "better is no regression"
    assert json.loads(compare(capsys, worse, turning, "--json")[1])["verdict"] == "better"


def test_a_wider_margin_is_wider(turning, tmp_path, capsys):
    worse = changed(turning, tmp_path / "worse", scaled(1.03))
    assert compare(capsys, turning, worse, "--margin", "5%", "--require", "equivalent")[0] == 0


def test_clips_that_failed_in_b_are_a_regression(turning, tmp_path, capsys):
    def fail(row, n):
        if n == 7:
            row.update(status="error", error="broke")

    worse = changed(turning, tmp_path / "worse", fail)
    status, out, err = compare(capsys, turning, worse, "--max-regression", "50%")
    assert status == 1
    assert "1 clip(s) failed" in err
    assert "answered only in A: 1 (1 failed in B)" in out


def test_undecided_says_how_many_clips_would_decide(straight, turning, capsys):
    status, out, _ = compare(capsys, straight, turning)
    assert status == 0
    assert re.search(r"min_ade_6: undecided, about [\d,]+ clips would decide", out)
    assert "moved most" in out


def test_runs_that_do_not_pair_are_noted(turning, tmp_path, capsys):
    def other(row, n):
        row["seed"] += 1

    _, out, _ = compare(capsys, turning, changed(turning, tmp_path / "other", other))
    assert "note: the runs have other seeds" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--margin", "two"], "--margin: 'two'"), (["--margin", "200%"], "--margin: '200%'"),
        (["--max-regression", "1 %%"], "--max-regression"), (["--metric", "beauty"], "--metric: 'beauty'"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(turning, capsys, words, said):
    status, out, err = compare(capsys, turning, turning, *words)
    assert (status, out) == (2, "")
    assert said in err


def test_folders_that_are_no_runs_or_have_nothing_in_common(turning, driven, tmp_path, capsys):
    assert compare(capsys, turning, tmp_path)[0] == 2
    apart = changed(turning, tmp_path / "apart", lambda row, n: row.update(clip_id=f"other-{n}"))
    status, _, err = compare(capsys, turning, apart)
    assert status == 2
    assert "no answered clip in common" in err


def test_one_candidate_is_found_worse_than_six(turning, tmp_path, capsys):
    """From six different candidates, the run of the first alone."""
    rng = np.random.default_rng(0)

    def six(row, n):
        errors = row["metrics"]["ade_best"] * np.abs(rng.normal(1, 0.4, 6))
        row["metrics"] = {"ade_best": errors.min(), "ade_mean": errors.mean(), "min_ade_6": errors.min()}

    many = changed(turning, tmp_path / "six", six)
    first = changed(many, tmp_path / "one", lambda row, n: row.update(
        metrics={"ade_best": row["metrics"]["ade_mean"], "ade_mean": row["metrics"]["ade_mean"]}
    ))  # fmt: skip
    status, out, _ = compare(capsys, many, first, "--json")
    told = json.loads(out)
    assert (status, told["main"], told["verdict"]) == (0, "ade_best", "worse")
    assert any("six candidates" in note for note in told["notes"])


@pytest.mark.slow
def test_broken_runs_of_nano_are_found_worse_and_the_same_run_is_equivalent(tmp_path, capsys, monkeypatch):
    """Four Euler steps at wrong times, and one candidate, against what the model really does; 20 clips."""
    import alpamayo_rt.engine.base as base

    clips = {"clips": "world-live:0:20"}
    good, again, wrong, single = (tmp_path / name for name in ("good", "again", "wrong", "single"))
    assert evaluate(good, "--no-pictures", **clips) == 0
    assert evaluate(again, "--no-pictures", "--prefetch", 0, "--limit", 6, **clips) == 0
    assert evaluate(single, "--no-pictures", "--num-candidates", 1, **clips) == 0
    right = base.integrate

    def backwards(noise, velocity, steps):
        return right(noise, lambda x, t: velocity(x, 1 - t), steps)

    monkeypatch.setattr(base, "integrate", backwards)
    assert evaluate(wrong, "--no-pictures", "--num-diffusion-steps", 4, **clips) == 0
    assert compare(capsys, good, again, "--require", "equivalent")[0] == 0
    for broken in (wrong, single):
        _, out, _ = compare(capsys, good, broken, "--json")
        assert json.loads(out)["verdict"] == "worse", broken.name
        assert compare(capsys, good, broken, "--max-regression", "2%")[0] == 1


def report(capsys, out: Path, *runs: Path) -> str:
    capsys.readouterr()
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".md"))]
    return out.read_text()


def test_a_report_needs_nothing_else_and_says_what_the_runs_say(driven, turning, tmp_path, capsys):
    page = report(capsys, tmp_path / "r.html", driven, turning)
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "<script" not in page
    assert "http" not in re.sub(r"http-equiv", "", page)
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    summary = json.loads((driven / "summary.json").read_text())
    for name, digits in (("min_ade_3", 3), ("min_fde_3", 3)):
        assert f"{summary['metrics'][name]['mean']:.{digits}f}" in text
    assert f"{summary['milliseconds']['expert']['median']:,.1f}" in text
    worst = max(records(driven), key=lambda row: row["metrics"]["ade_best"])
    assert worst["reasoning"][0] in text
    assert page.count("data:image/jpeg;base64,") == 6
    assert "waited for data" in text
    markdown = (tmp_path / "r.md").read_text()
    assert f"{summary['metrics']['min_ade_3']['mean']:.3f}" in markdown
    assert "| metric |" in markdown


def test_what_a_model_says_is_text_and_nothing_else(driven, tmp_path, capsys):
    evil = '<img src=x onerror=alert(1)> "quoted" | `code` 日本'
    run = changed(driven, tmp_path / "evil", lambda row, n: row.update(reasoning=[evil]))
    page = report(capsys, tmp_path / "r.html", run)
    assert "<img src=x" not in page
    assert html.escape(evil) in page
    assert "<img" not in (tmp_path / "r.md").read_text().replace("\\<img", "")


def test_a_run_in_which_everything_failed_can_be_reported(turning, tmp_path, capsys):
    failed = changed(turning, tmp_path / "failed", lambda row, n: row.update(status="error", error="no <luck>"))
    assert "no &lt;luck&gt;" in report(capsys, tmp_path / "r.html", failed)


def test_the_default_place_and_a_name_that_is_no_page(driven, tmp_path, capsys):
    run = Path(shutil.copytree(driven, tmp_path / "run"))
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").is_file()
    assert (run / "report.md").is_file()
    assert main(["report", str(run), "--out", str(tmp_path / "r.pdf")]) == 2


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(chromium, driven, turning, tmp_path, capsys, width):
    """Nothing is wider than the window (tables scroll by themselves), pictures load, and something is drawn."""
    page = tmp_path / "r.html"
    report(capsys, page, driven, turning)
    # The page allows no script; a copy of it measures itself, in a frame as wide as a phone or a desk's window.
    measure = """<script>addEventListener("load", () => { const e = document.documentElement;
      const wide = [...document.querySelectorAll("main *")].filter(x => !x.closest(".scroll, pre, svg") &&
        x.getBoundingClientRect().right > e.clientWidth + 1).map(x => x.tagName + "." + x.className);
      const boxes = [...document.querySelectorAll("svg")].map(x => x.getBoundingClientRect());
      parent.document.title = JSON.stringify({client: e.clientWidth, scroll: e.scrollWidth, wide,
        pictures: [...document.images].map(x => x.naturalWidth), high: boxes.every(b => b.height > 10),
        smallest: Math.min(...[...document.querySelectorAll("p,td,li,blockquote,h1,h2,h3")].map(
          x => parseFloat(getComputedStyle(x).fontSize))),
        charts: [...document.querySelectorAll("svg.chart text")].every(
          x => x.getBoundingClientRect().height > 8)});
    })</script>"""
    open_page = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text()).replace("</head>", f"{measure}</head>")
    frame = tmp_path / "frame.html"
    (tmp_path / "open.html").write_text(open_page)
    frame.write_text(f'<iframe src="open.html" width="{width}" height="900" style="border:0"></iframe>')
    words = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=8000"]  # fmt: skip
    done = subprocess.run([*words, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stderr[-2000:]
    told = json.loads(html.unescape(title[1]))
    assert told["client"] == told["scroll"] == width
    assert told["wide"] == []
    assert len(told["pictures"]) == 6
    assert min(told["pictures"]) > 100
    assert told["high"]
    assert told["charts"]
    assert told["smallest"] >= 13
    picture = tmp_path / "r.png"
    subprocess.run([*words, f"--window-size={max(width, 500)},3000", f"--screenshot={picture}", page.as_uri()],
                   check=True, capture_output=True, timeout=120)  # fmt: skip
    from PIL import Image

    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 200

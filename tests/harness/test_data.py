# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt data` as a process, through the dataset's real kit, against a small hub on loopback."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_process import CommandProcess, Run
from hub_stand_in import COMMIT, Hub

from alpamayo_rt.harness.clip_list import ClipRef, read_list, write_list
from alpamayo_rt.sample.clip_writer import DatasetWriter
from alpamayo_rt.sample.clips import ClipDataset
from alpamayo_rt.sample.dataset_layout import repo_folder, snapshot_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "sample"))
from clip_recordings import recording

CLIPS = [f"{n}30c760c-ae38-49aa-9ad8-f5650a545d26" for n in range(4)]
LARGE = 30 * 2**20
FILES = 5  # four cameras and the poses, of a clip that is alone in its chunk


@pytest.fixture(scope="session")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a dataset of four clips as the hub has them."""
    root = tmp_path_factory.mktemp("remote")
    writer = DatasetWriter(root)
    for n, clip_id in enumerate(CLIPS):
        clip = recording(clip_id, seconds=12.0)
        extra = {"country": "Germany" if n % 2 else "Italy", "hour_of_day": str(6 + 6 * n)}
        writer.write(
            type(clip)(
                **{**vars(clip), "metadata": extra, "split": "test" if n == 3 else "train", "extra_files": {}}
            )
        )
    folder = snapshot_folder(root, next((repo_folder(root) / "snapshots").iterdir()).name)
    (large,) = folder.glob("camera/*front_wide*/*chunk_0000.zip")
    with zipfile.ZipFile(large, "a") as archive:  # as if other clips were in there too
        archive.writestr("other.mp4", np.random.default_rng(0).bytes(LARGE))
    return folder


@pytest.fixture(scope="module")
def served(remote: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, CommandProcess]]:
    server = Hub(remote)
    home = str(tmp_path_factory.mktemp("home"))
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    commands = CommandProcess(HF_HOME=home, HF_ENDPOINT=server.url, HF_HUB_OFFLINE="0", **quiet)
    yield server, commands
    commands.close()
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(served: tuple[Hub, CommandProcess]) -> Hub:
    served[0].reset()
    return served[0]


@pytest.fixture
def data(served: tuple[Hub, CommandProcess], hub: Hub):
    """Run the command against the hub."""

    def run(root: Path, action: str, *more: object) -> Run:
        return served[1]("data", action, "--dataset-root", root, *more)

    return run


def a_list(folder: Path, *clips: str) -> Path:
    write_list(folder / "list.csv", [ClipRef(clip) for clip in clips])
    return folder / "list.csv"


def zips(root: Path) -> list[Path]:
    return sorted(repo_folder(root).glob("snapshots/*/*/*/*.zip"))


def test_list_select_fetch_verify_read(hub, data, tmp_path):
    root = tmp_path / "root"
    shown = data(root, "list", "--json")
    assert shown.returncode == 0, shown.stderr
    told = {row["clip_id"]: row for row in json.loads(shown.stdout)}
    assert list(told) == CLIPS
    assert told[CLIPS[1]]["country"] == "Germany"
    assert not any(row["here"] for row in told.values())

    chosen = tmp_path / "chosen.parquet"
    done = data(root, "select", "--country", "germany", "--hours", "10-14", "--out", chosen)
    assert done.returncode == 0, done.stderr
    assert read_list(chosen) == [ClipRef(CLIPS[1])]
    size = sum(path.stat().st_size for path in hub.folder.glob("*/*/*.chunk_0001.zip"))
    assert f"{FILES} file(s), {size / 1024**2:.2f} MiB" in done.stdout

    dry = data(root, "fetch", "--clips", chosen, "--dry-run")
    assert dry.returncode == 0
    assert f"to fetch: {FILES} file(s)" in dry.stdout
    assert zips(root) == []
    assert data(root, "fetch", "--clips", chosen, "--max-gib", "0.000001").returncode == 2

    done = data(root, "fetch", "--clips", chosen)
    assert done.returncode == 0, done.stderr
    assert f"{FILES} file(s) fetched" in done.stdout
    assert len(zips(root)) == FILES
    assert (repo_folder(root) / "refs" / "main").read_text() == COMMIT
    # What is here needs no hub any more.
    hub.status = 503
    assert ClipDataset(root).clip_ids() == (CLIPS[1],)
    assert ClipDataset(root).read(CLIPS[1]).sample.frames.shape[:2] == (4, 4)
    checked = data(root, "verify")
    assert checked.returncode == 0, checked.stderr
    assert f"1 clip(s), {FILES} file(s), 0 missing" in checked.stdout
    assert "1 of them here" in data(root, "list").stderr


def test_a_transfer_that_breaks_off_goes_on_where_it_was(hub, data, tmp_path):
    hub.break_all(1)
    (large,) = hub.folder.glob("camera/*front_wide*/*chunk_0000.zip")
    assert large.stat().st_size > LARGE
    root = tmp_path / "root"
    done = data(root, "fetch", "--clips", a_list(tmp_path, CLIPS[0]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert data(root, "verify").returncode == 0
    sent = hub.sent[str(large.relative_to(hub.folder))]
    # The hub library keeps what came in blocks of 10 MiB; only the block in which it broke off comes again.
    assert large.stat().st_size <= sent < large.stat().st_size + 11 * 2**20


@pytest.mark.slow
def test_one_that_never_comes_to_its_end_fails_alone_and_a_later_call_brings_it(hub, data, tmp_path):
    (broken,) = (str(p.relative_to(hub.folder)) for p in hub.folder.glob("camera/*front_wide*/*chunk_0000.zip"))
    hub.break_off[broken] = 10_000
    root, chosen = tmp_path / "root", a_list(tmp_path, CLIPS[0])
    done = data(root, "fetch", "--clips", chosen)
    assert done.returncode == 1
    assert f"failed: {broken}" in done.stdout
    assert "run the same command again" in done.stderr
    assert len(zips(root)) == FILES - 1
    hub.break_off.clear()
    hub.sent.clear()
    done = data(root, "fetch", "--clips", chosen)
    assert done.returncode == 0
    assert "1 file(s) fetched" in done.stdout
    assert set(hub.sent) == {broken}, "other files were fetched again"


@pytest.mark.parametrize(("status", "said"), [(401, "hf auth login"), (403, "no access")])
def test_a_gate_is_named_in_one_line_and_nothing_is_left(hub, data, tmp_path, status, said):
    hub.status = status
    root = tmp_path / "root"
    done = data(root, "fetch", "--clips", a_list(tmp_path, CLIPS[0]))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "huggingface.co/datasets/nvidia/PhysicalAI-Autonomous-Vehicles" in line
    assert zips(root) == []


def test_a_gate_that_closes_half_way(hub, data, tmp_path):
    root = tmp_path / "root"
    assert data(root, "fetch", "--clips", a_list(tmp_path, CLIPS[0])).returncode == 0
    hub.status = 403
    done = data(root, "fetch", "--clips", a_list(tmp_path, CLIPS[1]))
    assert done.returncode == 2
    assert "no access" in done.stderr
    assert len(zips(root)) == FILES


def test_a_corrupt_file_is_fetched_anew(hub, data, tmp_path):
    hub.corrupt["front_tele"] = 1
    root = tmp_path / "root"
    done = data(root, "fetch", "--clips", a_list(tmp_path, CLIPS[2]))
    assert done.returncode == 0
    assert "is damaged, its checksum is another one, trying again" in done.stderr
    assert data(root, "verify").returncode == 0


def test_one_that_stays_corrupt_is_not_kept(hub, data, tmp_path):
    hub.corrupt["front_tele"] = 100
    root = tmp_path / "root"
    done = data(root, "fetch", "--clips", a_list(tmp_path, CLIPS[2]))
    assert done.returncode == 1
    assert "front_tele" in done.stdout
    assert "nothing of it is kept" in done.stdout
    assert len(zips(root)) == FILES - 1


def test_verify_finds_what_was_damaged_later(hub, data, tmp_path):
    root = tmp_path / "root"
    chosen = a_list(tmp_path, CLIPS[0])
    assert data(root, "fetch", "--clips", chosen).returncode == 0
    victim = zips(root)[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.resolve().write_bytes(content)
    done = data(root, "verify", "--remove")
    assert done.returncode == 1
    assert f"{victim} is damaged" in done.stdout
    assert "1 missing or damaged, 1 removed" in done.stdout
    assert len(zips(root)) == FILES - 1
    assert data(root, "fetch", "--clips", chosen).returncode == 0
    assert data(root, "verify").returncode == 0


def test_only_the_clips_themselves(hub, data, tmp_path):
    """Read by range out of files that hold others too, and read back as any clip is."""
    root, chosen = tmp_path / "root", a_list(tmp_path, CLIPS[0], CLIPS[1])
    dry = data(root, "fetch", "--clips", chosen, "--only-clips", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "2 clip(s), " in dry.stdout
    assert not root.exists()
    hub.sent.clear()
    done = data(root, "fetch", "--clips", chosen, "--only-clips")
    assert done.returncode == 0, done.stderr
    assert "2 clip(s) fetched" in done.stdout
    # The file with others in it is 30 MB; the hub library reads ahead by some.
    assert sum(hub.sent.values()) < LARGE / 2
    assert sum(path.stat().st_size for path in zips(root)) < 2**21
    alone, whole = ClipDataset(root).read(CLIPS[0]), ClipDataset(hub.folder.parents[2]).read(CLIPS[0])
    assert torch.equal(alone.sample.frames, whole.sample.frames)
    assert torch.equal(alone.future_xyz, whole.future_xyz)
    assert ClipDataset(root).metadata(CLIPS[1])["country"] == "Germany"
    assert data(root, "verify").returncode == 0
    hub.sent.clear()
    assert "0 clip(s) fetched" in data(root, "fetch", "--clips", chosen, "--only-clips").stdout
    assert not any("chunk" in name for name in hub.sent), "a clip was fetched again"
    hub.status = 403
    done = data(tmp_path / "other", "fetch", "--clips", chosen, "--only-clips")
    assert done.returncode == 2
    assert "no access" in done.stderr


def test_clips_that_do_not_exist_and_folders_that_are_not_ours(hub, data, tmp_path, remote):
    chosen = a_list(tmp_path, CLIPS[0], "no-such-clip")
    done = data(tmp_path / "root", "fetch", "--clips", chosen, "--dry-run")
    assert done.returncode == 1
    assert "1 clip(s) are not in the dataset's index: no-such-clip" in done.stderr
    own = remote.parents[2]
    done = data(own, "fetch", "--clips", chosen)
    assert done.returncode == 2
    assert "were written here" in done.stderr
    assert data(own, "verify").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "moon"], "expected one of test, train"),
        (["--where", "planet=Mars"], "no column 'planet'"),
        (["--where", "planet"], "COLUMN=VALUE"),
        (["--hours", "6"], "--hours: '6'"),
        (["--cameras", "9"], "unknown camera 9"),
        (["--number", "0"], "--number: 0"),
        (["--clips", "nothing.csv"], "no file nothing.csv"),
    ],
)
def test_selections_that_make_no_sense(tmp_path, remote, words, said, capsys):
    from alpamayo_rt.cli.main import main

    assert main(["data", "list", "--dataset-root", str(remote.parents[2]), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_number_with_a_seed(remote, tmp_path, capsys):
    from alpamayo_rt.cli.main import main

    def drawn(number: int, seed: int) -> list[str]:
        out = tmp_path / "drawn.txt"
        words = ["--number", str(number), "--seed", str(seed), "--no-estimate", "--out", str(out)]
        assert main(["data", "select", "--dataset-root", str(remote.parents[2]), *words]) == 0
        return [ref.clip_id for ref in read_list(out)]

    assert drawn(2, 0) == drawn(2, 0)
    assert set(drawn(2, 0)) < set(drawn(3, 0)) < set(CLIPS)
    assert len({tuple(drawn(2, seed)) for seed in range(8)}) > 1
    assert main(["data", "list", "--dataset-root", str(remote.parents[2]), "--hours", "22-8"]) == 0
    shown = capsys.readouterr().out
    assert [clip for clip in CLIPS if clip in shown] == [CLIPS[0], CLIPS[3]]


def test_a_list_in_the_public_form_runs_on_the_clips_that_are_here(remote, tmp_path, capsys):
    """1,181 rows, one column; four clips are here, the others are named with the command that fetches them."""
    import uuid

    from alpamayo_rt.cli.main import main

    names = [str(uuid.UUID(int=n)) for n in range(1177)]
    for place, clip in zip((0, 400, 800, 1176), CLIPS, strict=True):
        names.insert(place, clip)
    public, run = tmp_path / "1005_7cam.parquet", tmp_path / "run"
    pd.DataFrame({"clip_id": names}).to_parquet(public)
    root = remote.parents[2]
    words = ["--clips", str(public), "--dataset-root", str(root), "--out", str(run)]
    status = main(["eval", "--model", "baseline:constant-turn-rate", *words])
    said = capsys.readouterr()
    assert status == 1
    assert "4 clip(s), 0 failed, 1177 not here" in said.out
    missing = run / "missing.csv"
    assert f"alpamayo-rt data fetch --clips {missing} --dataset-root {root} --only-clips" in said.err
    assert len(read_list(missing)) == 1177
    assert {ref.t0_us for ref in read_list(missing)} == {5_100_000}
    results = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert sorted(r["clip_id"] for r in results) == sorted(CLIPS)
    # A constant turn at constant speed, as the clips are, is what this baseline says.
    assert max(r["metrics"]["min_ade_6"] for r in results) < 0.05
    shutil.rmtree(run)
    pd.DataFrame({"clip_id": names[1:50]}).to_parquet(public)
    assert main(["eval", "--model", "baseline:constant-turn-rate", *words]) == 2
    assert "none of 49" in capsys.readouterr().err
    assert not run.exists()

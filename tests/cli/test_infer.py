# SPDX-License-Identifier: Apache-2.0
"""What the commands do with good input: spellings, precedence, sources, and the files that they hand on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import (
    CASES,
    MODEL,
    QUICK,
    Run,
    history,
    infer,
    pictures,
    process,
    request,
    with_text,
    without_times,
    write_requests,
)
from safetensors.torch import load_file, save_file

from alpamayo_rt import Model, Sample
from alpamayo_rt.families import ALPAMAYO_1_5

pytestmark = pytest.mark.usefixtures("loaded_once")

PREPARED = (*MODEL, "--prepared", CASES / "nav_cfg.npz")
SYSTEM, INSTRUCTION = ALPAMAYO_1_5.system, ALPAMAYO_1_5.instruction
HISTORY_BLOCK = "<|traj_history_start|>" + 48 * "<|traj_history|>" + "<|traj_history_end|>"


def answers(run: Run, path: Path | None = None) -> list[dict[str, Any]]:
    """The responses, without what no two runs share."""
    written = json.loads(run.out if path is None else path.read_text())
    return [without_times(response) for response in written["responses"]]


def answer(cli: Callable[..., Run], *argv: object) -> dict[str, Any]:
    """The one response of a run that has to succeed and prints it."""
    run = cli("infer", *argv)
    assert run.status == 0, run.err
    (response,) = answers(run)
    return response


# ------------------------------------------------------------------------------------------- spellings


def test_camel_case_spellings_mean_the_same(tmp_path: Path, cli: Callable[..., Run]) -> None:
    entry = request(pictures(tmp_path), id="a", ego_history_xyz=None, ego_history_rot=None)
    source = tmp_path / "in.json"
    source.write_text(json.dumps({"max_generate_length": 4, "requests": [entry]}))
    xyz, rot = history(speed=7.0)
    np.save(tmp_path / "xyz.npy", xyz)
    np.save(tmp_path / "rot.npy", rot)
    ours = {
        "input-file": "inputFile", "output-file": "outputFile", "num-candidates": "numCandidates",
        "num-diffusion-steps": "numDiffusionSteps", "multi-seq": "multiSeq", "dump-kv-cache": "dumpKVCache",
        "kv-cache-output-dir": "kvCacheOutputDir", "ego-history-xyz-npy": "egoHistoryXYZNpy",
        "ego-history-rot-npy": "egoHistoryRotNpy",
    }  # fmt: skip
    found = []
    for camel in (False, True):
        folder = tmp_path / str(camel)
        folder.mkdir()
        values = {
            "input-file": source, "output-file": folder / "out.json", "num-candidates": 3,
            "num-diffusion-steps": 2, "multi-seq": None, "dump-kv-cache": None,
            "kv-cache-output-dir": folder / "kv", "ego-history-xyz-npy": tmp_path / "xyz.npy",
            "ego-history-rot-npy": tmp_path / "rot.npy",
        }  # fmt: skip
        assert values.keys() == ours.keys()
        words: list[object] = []
        for name, value in values.items():
            words += [f"--{ours[name] if camel else name}", *([] if value is None else [value])]
        assert cli("infer", *MODEL, *words).status == 0
        written = json.loads((folder / "out.json").read_text())
        written["responses"] = [without_times(response) for response in written["responses"]]
        found.append((written, load_file(folder / "kv" / "a.safetensors")))
    assert found[0][0] == found[1][0]
    assert found[0][1].keys() == found[1][1].keys()
    assert all(tensor.equal(found[1][1][name]) for name, tensor in found[0][1].items())
    (response,) = found[0][0]["responses"]
    assert len(response["trajectories"]) == len(response["reasoning"]) == 3


@pytest.mark.parametrize(
    "words", [("--dumpProfile",), ("--warmup", 3), ("--dumpProfile", "p.json", "--warmup")]
)
def test_flags_of_another_runner_are_ignored_in_one_line_each(cli: Callable[..., Run], words: tuple) -> None:
    run = cli("infer", *PREPARED, *QUICK, *words)
    assert run.status == 0
    flags = [word for word in words if str(word).startswith("--")]
    assert len(run.complaints) == len(flags)
    for flag in flags:
        assert sum(f"{flag} is ignored" in line for line in run.complaints) == 1


# ------------------------------------------------------------------------------------------- precedence


def test_command_line_over_request_over_file_over_default(tmp_path: Path, cli: Callable[..., Run]) -> None:
    plain = request(pictures(tmp_path))
    own = plain | {"num_candidates": 4, "seed": 40}
    source = tmp_path / "in.json"
    common = {"max_generate_length": 2, "num_diffusion_steps": 1}

    def run(top: dict[str, Any], *more: object) -> list[tuple[int, int]]:
        source.write_text(json.dumps(common | top | {"requests": [plain, own]}))
        result = cli("infer", *MODEL, "--input-file", source, *more)
        assert result.status == 0
        return [(len(r["trajectories"]), r["seed"]) for r in answers(result)]

    assert run({}) == [(6, 0), (4, 40)]
    assert run({"num_candidates": 3, "seed": 30}) == [(3, 30), (4, 40)]
    assert run({"num_candidates": 3, "seed": 30}, "--num-candidates", 2) == [(2, 30), (2, 40)]
    assert run({"seed": 30}, "--seed", 2**53 + 1) == [(6, 2**53 + 1), (4, 2**53 + 1)]


def test_switching_off_on_the_command_line(tmp_path: Path, cli: Callable[..., Run]) -> None:
    source = write_requests(tmp_path / "in.json", request(pictures(tmp_path), multi_seq=True))
    assert len(answer(cli, *MODEL, "--input-file", source)["reasoning"]) == 2
    assert len(answer(cli, *MODEL, "--input-file", source, "--no-multi-seq")["reasoning"]) == 1


def test_requests_have_settings_of_their_own(tmp_path: Path, cli: Callable[..., Run], model: Model) -> None:
    entry = request(pictures(tmp_path))
    own = {"temperature": 0.9, "top_p": 0.8, "top_k": 9, "max_generate_length": 3, "seed": 5}
    source = write_requests(tmp_path / "in.json", entry | own, entry)
    run = cli("infer", *MODEL, "--input-file", source)
    from alpamayo_rt.sample.image_files import read_frames

    frames = read_frames([tmp_path / "0.png", tmp_path / "1.png"], 2)
    sample = Sample(frames, [0, 1], *history())
    base = {"num_candidates": 2, "num_diffusion_steps": 2, "max_generate_length": 4}
    for settings, response in zip((base | own, base), answers(run), strict=True):
        expected = without_times(model.infer(sample, **settings).to_json())
        assert {name: response[name] for name in expected} == expected


# ------------------------------------------------------------------------------------------- requests


def test_one_bad_request_does_not_lose_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict
) -> None:
    alone, (expected,) = infer(capsys, write_requests(tmp_path / "in.json", entry | {"id": "b"}))
    requests = [entry | {"camera_indices": [0, 9]}, entry | {"id": "b"}, "?", entry | {"id": "d", "seed": 1}]
    run, responses = infer(capsys, write_requests(tmp_path / "in.json", *requests))
    assert (alone.status, run.status) == (0, 1)
    assert [r["status"] for r in responses] == ["error", "ok", "error", "ok"]
    assert [r["id"] for r in responses] == ["0", "b", "2", "d"]
    assert without_times(responses[1]) == without_times(expected)
    assert [line[:7] for line in run.err.splitlines() if line.startswith("[")] == [
        "[1/4] 0", "[2/4] b", "[3/4] 2", "[4/4] d"
    ]  # fmt: skip


def test_an_error_nobody_foresaw_does_not_lose_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer_once = Model.infer

    def breaks(self: Model, sample: Sample, **settings: Any) -> Any:
        if settings["seed"] == 13:
            raise AttributeError("a bug\nwith two lines")
        return infer_once(self, sample, **settings)

    monkeypatch.setattr(Model, "infer", breaks)
    source = write_requests(tmp_path / "in.json", entry | {"seed": 13}, entry)
    run, (first, second) = infer(capsys, source)
    assert run.status == 1
    assert first["error"].startswith("internal error, AttributeError: a bug")
    assert second["status"] == "ok"


def test_texts_that_spell_the_layout_give_the_same_prompt(
    tmp_path: Path, cli: Callable[..., Run], entry: dict
) -> None:
    nav, question = "Turn left in 40m", "Is it clear?"
    system = {"role": "system", "content": SYSTEM}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": "<|cot_start|>"}]}
    route = f"<|route_start|>{nav}<|route_end|>"
    left_out = entry | {"nav_text": nav}
    spelled = with_text(entry, f"{HISTORY_BLOCK}{route}{INSTRUCTION}")
    spelled["messages"] = [system, *spelled["messages"], assistant]
    other_runner = with_text(
        entry | {"nav_text": nav}, f"<|traj_history_start|><|traj_history_end|>{INSTRUCTION}"
    )
    images = entry["messages"][0]["content"]
    labelled = {name: value for name, value in entry.items() if name != "camera_indices"} | {
        "nav_text": nav,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Front left camera: frame 0 "},
                    images[0],
                    {"type": "text", "text": "Front camera: frame 0 "},
                    images[1],
                    {"type": "text", "text": "  \n"},
                ],
            }
        ],
    }
    asked = entry | {"question": question}
    asked_in_text = with_text(entry, f"<|question_start|>{question}<|question_end|>")
    kinds = [left_out, spelled, other_runner, labelled, asked, asked_in_text, entry]
    source = write_requests(tmp_path / "in.json", *(kind | {"id": str(n)} for n, kind in enumerate(kinds)))
    run = cli("infer", *MODEL, "--input-file", source)
    assert run.status == 0
    first, *same, asked, asked_in_text, plain = [
        {name: value for name, value in response.items() if name != "id"} for response in answers(run)
    ]
    assert same == [first, first, first]
    assert asked == asked_in_text
    assert "answer" in asked
    assert plain["prompt_tokens"] < first["prompt_tokens"]


def test_question_without_history(tmp_path: Path, cli: Callable[..., Run]) -> None:
    entry = request(pictures(tmp_path), ego_history_xyz=None, ego_history_rot=None, question="Is it clear?")
    response = answer(cli, *MODEL, "--input-file", write_requests(tmp_path / "in.json", entry))
    assert response["answer"] is not None
    assert response["reasoning"] == []
    assert "trajectories" not in response


def test_batch_size_is_accepted(tmp_path: Path, cli: Callable[..., Run], entry: dict) -> None:
    source = write_requests(tmp_path / "in.json", entry, batch_size=1)
    expected = answer(cli, *MODEL, "--input-file", source)
    assert answer(cli, *MODEL, "--input-file", write_requests(source, entry, batch_size=8)) == expected


def test_a_byte_order_mark_is_accepted(tmp_path: Path, cli: Callable[..., Run], entry: dict) -> None:
    source = write_requests(tmp_path / "in.json", entry)
    expected = answer(cli, *MODEL, "--input-file", source)
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    assert answer(cli, *MODEL, "--input-file", source) == expected


def test_relative_paths_start_at_the_request_file(
    tmp_path: Path, cli: Callable[..., Run], entry: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_requests(tmp_path / "in.json", entry)
    run = cli("infer", *MODEL, "--input-file", "../in.json", "--output-file", "out.json")
    assert run.status == 0
    assert (tmp_path / "elsewhere" / "out.json").is_file()


# ------------------------------------------------------------------------------------------- other sources


def test_prepared_input_equals_images(tmp_path: Path, cli: Callable[..., Run]) -> None:
    from PIL import Image

    with np.load(CASES / "nav_cfg.npz") as archive:
        case = {name: archive[name] for name in archive.files}
    names = []
    for n, frame in enumerate(case["frames"]):
        names.append(f"{n}.png")
        Image.fromarray(frame.transpose(1, 2, 0)).save(tmp_path / names[-1])
    entry = request(
        names,
        camera_indices=case["camera_indices"].tolist(),
        ego_history_xyz=case["ego_history_xyz"].tolist(),
        ego_history_rot=case["ego_history_rot"].tolist(),
        nav_text="Turn left in 40m",
        id="nav_cfg",
    )
    pictured = answer(cli, *MODEL, "--input-file", write_requests(tmp_path / "in.json", entry))
    arguments = (*PREPARED, *QUICK)
    ready = answer(cli, *arguments, "--nav-text", "Turn left in 40m")
    assert ready.keys() == pictured.keys()
    assert ready["generated_token_ids"] == pictured["generated_token_ids"]
    np.testing.assert_allclose(ready["trajectories"], pictured["trajectories"], rtol=1e-3, atol=1e-4)
    assert answer(cli, *arguments)["prompt_tokens"] < ready["prompt_tokens"]
    # The same patches from safetensors, with the text in the metadata; and under a request of a file.
    names = ("pixel_values", "image_grid_thw", "camera_indices", "ego_history_xyz", "ego_history_rot")
    path = tmp_path / "nav_cfg.safetensors"
    save_file({n: torch.from_numpy(case[n]) for n in names}, path, {"nav_text": "Turn left in 40m"})
    assert answer(cli, *MODEL, "--prepared", path, *QUICK) == ready
    source = write_requests(tmp_path / "in.json", {"id": "nav_cfg", "nav_text": "Turn left in 40m"})
    assert answer(cli, *arguments, "--input-file", source) == ready


def test_history_from_the_command_line_goes_first(tmp_path: Path, cli: Callable[..., Run], entry: dict) -> None:
    xyz, rot = history(speed=9.0)
    np.save(tmp_path / "xyz.npy", [[xyz]])
    np.save(tmp_path / "rot.npy", rot)
    flags = ("--ego-history-xyz-npy", tmp_path / "xyz.npy", "--ego-history-rot-npy", tmp_path / "rot.npy")
    source = tmp_path / "in.json"
    slow = answer(cli, *MODEL, "--input-file", write_requests(source, entry))
    fast = answer(cli, *MODEL, "--input-file", write_requests(source, entry | {"ego_history_xyz": xyz}))
    assert fast != slow
    # What is replaced is not even read.
    gone = {name: value for name, value in entry.items() if not name.startswith("ego_")}
    gone |= {"ego_history_xyz_npy": "none.npy", "ego_history_rot_npy": "none.npy"}
    for replaced in (entry, gone):
        assert answer(cli, *MODEL, "--input-file", write_requests(source, replaced), *flags) == fast
    relative = gone | {"ego_history_xyz_npy": "xyz.npy", "ego_history_rot_npy": "rot.npy"}
    assert answer(cli, *MODEL, "--input-file", write_requests(source, relative)) == fast
    assert answer(cli, *PREPARED, *QUICK, *flags) != answer(cli, *PREPARED, *QUICK)


def test_question_with_prepared_input(cli: Callable[..., Run]) -> None:
    response = answer(cli, *MODEL, "--prepared", CASES / "vqa.npz", "--question", "Is it clear?", *QUICK)
    assert response["id"] == "vqa"
    assert "answer" in response


# ------------------------------------------------------------------------------------------- output


def test_standard_output_is_the_json_and_nothing_else(tmp_path: Path) -> None:
    run = process("infer", *PREPARED, *QUICK)
    assert run.status == 0
    assert run.complaints == []
    written = json.loads(run.out)
    assert written["engine"] == "eager"
    assert written["precision"] == "fp32"
    # And in a file, from another process with the same seed, it is the same.
    output = tmp_path / "out.json"
    run = process("infer", *PREPARED, *QUICK, "--output-file", output)
    assert run.out == ""
    assert run.err.splitlines()[-1] == f"wrote {output}"
    again = json.loads(output.read_text())
    for each in (written, again):
        each["responses"] = [without_times(response) for response in each["responses"]]
    assert again == written
    assert output.read_bytes().endswith(b"\n}\n")


def test_seed(cli: Callable[..., Run]) -> None:
    first, same, other = (answer(cli, *PREPARED, *QUICK, "--seed", seed) for seed in (3, 3, 4))
    assert first == same
    assert first["trajectories"] != other["trajectories"]


def test_output_replaces_and_follows_links(tmp_path: Path, cli: Callable[..., Run]) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    assert cli("infer", *PREPARED, *QUICK, "--output-file", tmp_path / "link.json").status == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["responses"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_where_dumps_go(tmp_path: Path, cli: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = ("infer", *PREPARED, *QUICK)
    for flags, folder in (
        (("--dump-kv-cache", "here"), "here"),
        (("--dump-kv-cache", "--kv-cache-output-dir", "there/deep"), "there/deep"),
        (("--dump-kv-cache", "one", "--kv-cache-output-dir", "two"), "one"),
        (("--dump-kv-cache",), "kv_cache"),
    ):
        assert cli(*base, *flags).status == 0
        assert [path.name for path in Path(folder).iterdir()] == ["nav_cfg.safetensors"]
    assert not Path("two").exists()
    Path("out").mkdir()
    assert cli(*base, "--output-file", "out/out.json", "--dump-kv-cache").status == 0
    assert Path("out/kv_cache/nav_cfg.safetensors").is_file()
    # Without --dump-kv-cache the folder's name alone asks for nothing.
    assert cli(*base, "--kv-cache-output-dir", "three").status == 0
    assert not Path("three").exists()


def test_an_id_that_cannot_name_a_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str], entry: dict) -> None:
    source = write_requests(tmp_path / "in.json", entry | {"id": "../a"}, entry | {"id": "b"})
    run, (first, second) = infer(capsys, source, "--dump-kv-cache", tmp_path / "kv")
    assert run.status == 1
    assert first["error"].startswith("requests[0].id: '../a' cannot name")
    assert second["status"] == "ok"
    assert [path.name for path in (tmp_path / "kv").iterdir()] == ["b.safetensors"]


def test_plot(tmp_path: Path, cli: Callable[..., Run], entry: dict) -> None:
    pytest.importorskip("alpamayo_rt.plot")
    from PIL import Image

    source = write_requests(tmp_path / "in.json", entry | {"id": "a"}, entry | {"id": "b"})
    output = ("--output-file", tmp_path / "out.json")
    run = cli("infer", *MODEL, "--input-file", source, *output, "--plot", tmp_path / "p.png")
    assert run.status == 0
    assert sorted(path.name for path in tmp_path.glob("p*.png")) == ["p-a.png", "p-b.png"]
    write_requests(tmp_path / "in.json", entry)
    run = cli("infer", *MODEL, "--input-file", source, *output, "--plot", tmp_path / "p.png")
    assert run.status == 0
    Image.open(tmp_path / "p.png").verify()

# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt client`, and the client in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from situations import question_sample

from alpamayo_rt import InputError, Model, Sample
from alpamayo_rt.cli.main import main
from alpamayo_rt.demo.live import live_clip
from alpamayo_rt.sample.sample import PreparedImages
from alpamayo_rt.serving.client import Client, ServerError, request_body
from conftest import Running

QUICK = ["--num-candidates", "2", "--num-diffusion-steps", "2", "--max-generate-length", "6"]


def test_posts_a_clip_and_saves(
    running: Running, model_1_5: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "answer.json", tmp_path / "picture.png"
    arguments = ["client", "--url", running.url, "--clip", "world-live:0:1", *QUICK, "--seed", "3"]
    assert main([*arguments, "--output-file", str(out), "--plot", str(picture)]) == 0
    reply = json.loads(out.read_text())
    sample, _ = live_clip("world-live:0:1").read(torch.device("cpu"))
    result = model_1_5.infer(sample, num_candidates=2, num_diffusion_steps=2, max_generate_length=6, seed=3)
    assert result.trajectories is not None
    assert torch.equal(torch.tensor(reply["trajectories"]), result.trajectories)
    said = capsys.readouterr()
    assert said.out.strip() == "".join(c if c.isprintable() else " " for c in result.reasoning[0]).strip()
    assert Image.open(picture).size == (1600, 1000)


def test_asks(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["client", "--url", running.url, "--clip", "world-live:0:1", *QUICK, "--image-format", "JPEG"]
    assert main([*arguments, "--question", "What colour is the light?"]) == 0
    assert "ms" in capsys.readouterr().err


def test_refusals_and_servers_that_are_none(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    clip = ["--clip", "world-live:0:1"]
    assert main(["client", "--url", running.url, *clip, "--num-candidates", "99"]) == 1
    assert "num_traj_samples: 99, expected a whole number from 1 to 8" in capsys.readouterr().err
    assert main(["client", "--url", "http://127.0.0.1:9", *clip]) == 2
    assert "does not answer" in capsys.readouterr().err
    for wrong in (["--url", "ftp://x", *clip], ["--clip", "abc"], [*clip, "--output-file", "/no/such/x.json"]):
        assert main(["client", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_client_says_what_is_wrong(running: Running) -> None:
    with pytest.raises(ServerError) as caught:
        running.client.infer(question_sample(), max_tokens=1000)
    assert caught.value.status == 422
    assert Client(running.url).ready()
    assert not Client("127.0.0.1:9").ready()
    with pytest.raises(ServerError, match="not ready after"):
        Client("127.0.0.1:9").wait_ready(0.1)
    with pytest.raises(InputError, match="frames: missing"):
        request_body(
            Sample(
                None,
                [0],
                question="?",
                prepared=PreparedImages(torch.zeros(4, 1536), torch.tensor([[1, 2, 2]])),
            )
        )

# SPDX-License-Identifier: Apache-2.0
"""What comes over the wire is what `Model.infer` gives for the same seed, streamed or not."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from situations import driving_sample, question_sample

from alpamayo_rt import Model
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.serving.client import Client, Event, ServerError, request_body
from alpamayo_rt.serving.text_stream import TextStream
from conftest import QUICK, Running, start

HOW = {"num_traj_samples": 3, "num_diffusion_steps": 3, "max_tokens": 12}
LOCAL = {"num_candidates": 3, "num_diffusion_steps": 3, "max_generate_length": 12}


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1])
@pytest.mark.parametrize("multi_seq", [False, True])
def test_equal_to_infer(running: Running, model_1_5: Model, seed: int, multi_seq: bool) -> None:
    sample = driving_sample((0, 1, 2), 2, navigation="Turn left in 40m")
    reply = running.client.infer(sample, seed=seed, multi_seq=multi_seq, guidance_weight=1.5, **HOW)
    result = model_1_5.infer(sample, seed=seed, multi_seq=multi_seq, guidance_weight=1.5, **LOCAL)
    for name in ("trajectories", "rotations", "actions"):
        assert torch.equal(torch.tensor(reply[name]), getattr(result, name)), name
    assert reply["reasoning"] == result.reasoning
    assert reply["stop_reasons"] == result.stop_reasons
    assert reply["usage"]["prompt_tokens"] == result.prompt_tokens


def test_answer_equal_to_infer(running: Running, model_1_5: Model) -> None:
    sample = question_sample()
    for seed in range(3):
        reply = running.client.infer(sample, seed=seed, max_tokens=12, temperature=1.0)
        assert (
            reply["answer"]
            == model_1_5.infer(sample, seed=seed, max_generate_length=12, temperature=1.0).answer
        )


@pytest.mark.parametrize("multi_seq", [False, True])
def test_streamed(running: Running, multi_seq: bool) -> None:
    sample = driving_sample()
    whole = running.client.infer(sample, multi_seq=multi_seq, seed=4, **HOW)
    texts: dict[int, str] = {}
    names = []
    for event in running.client.stream(sample, multi_seq=multi_seq, seed=4, **HOW):
        names.append(event.name)
        if event.name == "reasoning":
            n = event.data["sequence"]
            texts[n] = (
                event.data["text"] if event.data.get("replace") else texts.get(n, "") + event.data["text"]
            )
        if event.name == "trajectories":
            assert event.data["trajectories"] == whole["trajectories"]
        if event.name == "result":
            last = event.data
    assert names.index("reasoning") < names.index("trajectories") < names.index("result") == len(names) - 1
    assert [texts.get(n, "") for n in range(len(whole["reasoning"]))] == whole["reasoning"]
    for name in ("trajectories", "rotations", "reasoning", "stop_reasons"):
        assert last[name] == whole[name]


def test_streamed_to_a_chat_client(running: Running) -> None:
    body = request_body(question_sample())
    parts = [
        {"type": "image_url", "image_url": {"url": body["images"][0]}},
        {"type": "text", "text": body["question"]},
    ]
    request = {"messages": [{"role": "user", "content": parts}], "max_tokens": 12, "seed": 2}
    whole = running.client.post("/v1/vqa", request)["choices"][0]["message"]["content"]
    said, finish = "", None
    chunks: list[Event] = []
    with pytest.raises(ServerError, match="not a JSON object"):  # [DONE], which is not one
        chunks.extend(running.client.events("/v1/vqa", request | {"stream": True}))
    for event in chunks:
        choice = event.data["choices"][0]
        said += choice["delta"].get("content", "")
        finish = choice["finish_reason"] or finish
    assert (said, finish is not None) == (whole, True)


def test_an_error_in_a_stream(running: Running) -> None:
    body = request_body(driving_sample()) | {"stream": True, "max_tokens": 4}
    body["images"][1] = body["images"][1][:-400]
    with pytest.raises(ServerError, match=r"images\[1\]: (cannot be decoded|not base64)"):
        list(running.client.events("/v1/infer", body))


def test_pixels_are_those_of_pillow(running: Running, model_1_5: Model) -> None:
    rng = np.random.default_rng(3)
    smooth = rng.integers(0, 256, (9, 12, 3), np.uint8)
    kinds = [("JPEG", {"quality": 60}), ("JPEG", {"subsampling": 0}), ("JPEG", {"progressive": True})]
    for kind, options in (*kinds, ("PNG", {}), ("BMP", {}), ("WEBP", {"quality": 50})):
        for mode in ("RGB", "L") if kind != "WEBP" else ("RGB",):
            out = io.BytesIO()
            Image.fromarray(smooth).resize((97, 65)).convert(mode).save(out, kind, **options)
            pixels = np.array(Image.open(io.BytesIO(out.getvalue())).convert("RGB"))
            sample = Sample(torch.from_numpy(pixels).permute(2, 0, 1)[None, None], (1,), question="What?")
            body = request_body(sample) | {
                "images": [base64.b64encode(out.getvalue()).decode()],
                "max_tokens": 6,
            }
            reply = running.client.post("/v1/infer", body)
            from alpamayo_rt.serving.images import decode_all, from_text

            pool = running.server.service.images
            frames = decode_all([from_text("images[0]", body["images"][0], QUICK)], 1, pool)
            assert torch.equal(frames, sample.frames), (kind, mode)
            assert reply["answer"] == model_1_5.infer(sample, max_generate_length=6).answer


def test_characters_of_several_tokens_are_whole() -> None:
    text = "Straße 🚗 →"
    data = text.encode()
    stream = TextStream(lambda tokens: bytes(tokens).decode(errors="replace").strip())
    said = []
    for byte in data:
        piece, anew = stream.add([byte])
        assert not anew
        said.append(piece)
    assert "\ufffd" not in "".join(said)
    said.append(stream.finish(text)[0])
    assert "".join(said) == text
    assert len([piece for piece in said if piece]) > 8


def test_a_text_that_begins_anew() -> None:
    stream = TextStream(lambda tokens: "".join(map(chr, tokens)).rsplit("^", 1)[-1])
    assert [stream.add([ord(c)]) for c in "ab^cd"] == [
        ("a", False), ("b", False), ("", False), ("c", True), ("d", False),
    ]  # fmt: skip


def test_token(model_1_5: Model) -> None:
    found, thread = start(model_1_5, replace(QUICK, waiting=1), token="secret-word")
    sample = question_sample()
    assert Client(found.url, "secret-word").infer(sample, max_tokens=2)["answer"] is not None
    for token in (None, "", "secret-wor", "secret-word2", "ümlaut"):
        with pytest.raises((ServerError, UnicodeError), match=r"401|latin"):
            Client(found.url, token).infer(sample)
    with pytest.raises(ServerError, match="401"):
        Client(found.url).get("/v1/models")
    for path in ("/v1/health/live", "/v1/health/ready"):
        assert json.dumps(Client(found.url).get(path))
    found.server.stop()
    thread.join(10)
    assert not thread.is_alive()

# SPDX-License-Identifier: Apache-2.0
"""Which parts are narrowed while a checkpoint is loaded: their label, their memory, what is refused."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from situations import SHIPPED

from alpamayo_rt import load, room
from alpamayo_rt.checkpoint import empty_network, open_checkpoint
from alpamayo_rt.cli.main import main
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.quantization.linear import QuantizedLinear
from alpamayo_rt.quantization.memory import weight_bytes, weights_in
from alpamayo_rt.quantization.parts import NARROW, PARTS, label_of, parts_of
from alpamayo_rt.quantization.plan import Plan

FOLDER = str(SHIPPED / "model" / "checkpoint")
CHOICES = [chosen for n in (1, 2, 3) for chosen in combinations(PARTS, n)]


@pytest.mark.parametrize("precision", NARROW)
def test_a_label_says_precision_and_parts(precision: str) -> None:
    labels = [label_of(precision, parts) for parts in CHOICES]
    assert len(set(labels)) == len(CHOICES) == 7
    assert [parts_of(label) for label in labels] == [(precision, parts) for parts in CHOICES]
    assert label_of(precision, ("vision", "language")) == f"{precision}+vision"
    assert (label_of(precision, ("language",)), label_of(precision, ("vision",))) == (
        precision,
        f"{precision}:vision",
    )
    for label, parts in zip(labels, CHOICES, strict=True):
        assert Plan.named(label) == Plan(precision, parts)


@pytest.mark.parametrize("label", ["fp32", "bf16", "fp8+wheels", "fp8:", "fp8+", "bf16+vision", "?", ""])
def test_what_is_no_label_has_no_parts(label: str) -> None:
    assert parts_of(label) == (label, ())
    assert Plan.named(label) is None


def narrowed(model: Any) -> set[str]:
    named = model.engine.network.named_modules()
    return {name.split(".")[0] for name, module in named if isinstance(module, QuantizedLinear)}


@pytest.mark.parametrize("parts", [None, ("vision", "language"), ("vision",), PARTS])
def test_loading_narrows_what_quantize_would(parts: tuple[str, ...] | None, tmp_path: Path) -> None:
    model = load(FOLDER, "eager", "fp8", "cpu", parts=parts)
    chosen = parts or ("language",)
    assert narrowed(model) == set(chosen)
    assert model.engine.precision == label_of("fp8", chosen)
    out = tmp_path / "out"
    assert (
        main(
            [
                "quantize",
                "--model",
                FOLDER,
                "--precision",
                "fp8",
                "--parts",
                ",".join(chosen),
                "--out",
                str(out),
            ]
        )
        == 0
    )
    saved = load(str(out), "eager", device="cpu", parts=parts)
    assert saved.engine.precision == model.engine.precision
    ours, theirs = (m.engine.network.state_dict() for m in (model, saved))  # type: ignore[attr-defined]
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor.float(), theirs[name].float()), name
    if parts == ("vision",):
        with pytest.raises(InputError, match="parts: language, but the checkpoint holds fp8 weights in vision"):
            load(str(out), "eager", device="cpu", parts=("language",))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"precision": "fp8", "parts": ("wheels",)},
            "parts: wheels, expected some of language, vision, expert",
        ),
        ({"precision": "fp8", "parts": ()}, "parts: none, expected some of"),
        (
            {"precision": "bf16", "parts": ("vision",)},
            "parts: vision, but the precision is bf16, expected fp8 or int4",
        ),
        ({"parts": ("vision",)}, "parts: vision, but the precision is fp32, expected fp8 or int4"),
        ({"engine": "onnxruntime", "parts": ("vision",)}, "parts: vision, but engine files are narrowed when"),
    ],
)
def test_refusals(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(FOLDER, device="cpu", **how)


def test_the_memory_of_a_choice() -> None:
    checkpoint = open_checkpoint(FOLDER)
    empty = empty_network(checkpoint)
    parameters = sum(weights_in(empty, slot, p.numel()) for slot, p in empty.named_parameters())
    sizes = [
        weight_bytes(None, empty, parameters, parts) for parts in (("language",), ("language", "vision"), PARTS)
    ]
    fp8 = [next(size for name, (size, _) in each.items() if name.startswith("fp8")) for each in sizes]
    assert list(sizes[1]) == ["fp32", "fp16", "bf16", "fp8+vision", "int4+vision"]
    assert fp8 == sorted(fp8, reverse=True)
    assert len(set(fp8)) == 3
    for parts, size in zip((("language",), ("language", "vision"), PARTS), fp8, strict=True):
        model = load(FOLDER, "eager", "fp8", "cpu", parts=parts)
        held = 0
        for module in model.engine.network.modules():  # type: ignore[attr-defined]
            for name, p in module.named_parameters(recurse=False):
                inside = isinstance(module, QuantizedLinear) and name != "bias"
                held += p.numel() * (p.element_size() if inside else 2)  # the rest is bfloat16 on a GPU
        assert held == size, parts


def test_a_card_that_is_too_small_is_told_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_free_bytes", lambda device: 2**30)
    with pytest.raises(EngineError, match=r"precision: fp8\+vision needs .* would fit"):
        room.check_room({"fp8+vision": 2**30, "int4+vision": 0}, "fp8+vision", torch.device("cuda"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--precision", "fp8", "--parts", "wheels"],
            "parts: wheels, expected some of language, vision, expert",
        ),
        (["--precision", "bf16", "--parts", "vision"], "parts: vision, but the precision is bf16"),
        (["--parts", "language,vision"], "parts: language, vision, but the precision is fp32"),
    ],
)
@pytest.mark.parametrize("command", ["infer", "verify", "eval", "bench"])
def test_commands_refuse_in_one_line(
    command: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    what: dict[str, list[str]] = {
        "infer": ["--clip", "world-live:1:0"],
        "verify": [str(SHIPPED / "vqa.npz")],
        "eval": ["--clips", "world-live:1:1", "--out", str(tmp_path / "run")],
        "bench": ["--workload", "W1"],
    }
    status = main([command, "--model", FOLDER, "--device", "cpu", *what[command], *words])
    said = capsys.readouterr()
    assert status == 2
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if not line.startswith("[bench]")]
    assert message in line


def test_infer_says_what_was_narrowed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--clip", "world-live:1:0", "--num-candidates", "1", "--max-generate-length", "2"]
    words += ["--precision", "fp8", "--parts", "vision,language"]
    assert main(["infer", "--model", "nano", "--device", "cpu", *words]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "fp8+vision"

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from situations import SHIPPED

from alpamayo_rt import InputError
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.rows import BOUNDS, LOOSE, Report, Row, relative_l2


@pytest.fixture
def vqa(tmp_path: Path) -> Path:
    for suffix in (".npz", ".json"):
        shutil.copyfile(SHIPPED / f"vqa{suffix}", tmp_path / f"vqa{suffix}")
    return tmp_path / "vqa.npz"


def test_case_reads_its_settings() -> None:
    guided, question = Case(SHIPPED / "nav_cfg.npz"), Case(SHIPPED / "vqa.npz")
    assert guided.sample().navigation == "Turn left onto Main Street in 40m"
    assert (guided.question, guided.guidance_weight, guided.limit, guided.greedy) == (None, 1.5, 40, True)
    assert (question.question, question.limit, question.greedy) == ("Is the traffic light green?", 24, True)
    assert question.sample().navigation is None
    assert guided.sample().camera_indices == (0, 1)


def test_case_remembers_what_was_not_used() -> None:
    case = Case(SHIPPED / "vqa.npz")
    case["frames"]
    assert "frames" not in case.unused()
    assert "sequences" in case.unused()
    assert "nothing" not in case
    with pytest.raises(InputError, match="array nothing is missing"):
        case["nothing"]


@pytest.mark.parametrize("content", [None, b"", b"junk", b"PK\x03\x04broken"])
def test_arrays_that_cannot_be_read(content: bytes | None, vqa: Path) -> None:
    vqa.unlink() if content is None else vqa.write_bytes(content)
    with pytest.raises(InputError, match=r"vqa\.npz: (missing|not a readable)"):
        Case(vqa)


def test_a_single_array_is_no_case(vqa: Path) -> None:
    with vqa.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match=r"expected an \.npz archive"):
        Case(vqa)


def test_arrays_of_python_objects_are_not_unpickled(vqa: Path) -> None:
    np.savez(vqa, frames=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="not a readable"):
        Case(vqa)


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_settings_that_cannot_be_read(content: str | None, vqa: Path) -> None:
    path = vqa.with_suffix(".json")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"vqa\.json: (missing|not readable|holds a JSON list)"):
        Case(vqa)


def test_relative_error() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert relative_l2(b, a) == pytest.approx(0.1)
    assert relative_l2(a, a) == 0
    assert relative_l2(a, torch.zeros(2)) == math.inf
    assert relative_l2(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_l2(a, a[:1]) == math.inf
    assert relative_l2(torch.tensor([math.nan, 0]), a) == math.inf
    assert relative_l2(a, torch.tensor([math.inf, 0])) == math.inf


def test_report_judges_each_row_by_its_bound() -> None:
    report = Report("case", BOUNDS["fp32"])
    one = torch.ones(4)
    report.relative("a", "fed", one * 1.01, one, 1e-3)
    report.absolute("b", "fed", one * 1.01, one, 0.02)
    report.absolute("c", "fed", one[:3], one, 0.02)
    report.absolute("d", "fed", one * math.nan, one, 0.02)
    report.equal("e", "fed", torch.tensor([1, 2, 3]), torch.tensor([1, 5, 6]))
    report.equal("f", "fed", torch.tensor([1]), torch.tensor([1, 1]))
    report.equal("g", "fed", [1, 2], [1, 2])
    assert [(r.quantity, r.passed) for r in report.rows] == [
        ("a", False), ("b", True), ("c", False), ("d", False), ("e", False), ("f", False), ("g", True),
    ]  # fmt: skip
    assert [r.error for r in report.rows][2:] == [math.inf, math.inf, 2, math.inf, 0]
    assert not Row("case", "q", "fed", "max abs", math.nan, 1.0).passed


def test_only_chained_float_rows_get_looser_when_the_image_processor_differs() -> None:
    report = Report("case", BOUNDS["fp32"], chained_factor=LOOSE)
    one = torch.ones(4)
    report.relative("a", "chained", one, one, 1e-4)
    report.relative("b", "fed", one, one, 1e-4)
    report.equal("c", "chained", one, one)
    report.absolute("d", "chained", one, one, 0.1)
    assert [r.bound for r in report.rows] == [pytest.approx(1e-4 * LOOSE), 1e-4, 0.0, 0.1]


def test_velocity_error_is_of_its_step_in_float32_and_of_all_steps_below() -> None:
    recorded = torch.stack([torch.full((1, 2, 2), size) for size in (1.0, 0.01)])
    ours = recorded[1] + 0.001
    exact, coarse = Report("case", BOUNDS["fp32"]), Report("case", BOUNDS["bf16"])
    for report in (exact, coarse):
        report.velocity("euler_v", "fed", ours, recorded, 1)
    assert exact.rows[0].error == pytest.approx(0.1, rel=1e-4)
    assert coarse.rows[0].error == pytest.approx(0.001 / math.sqrt((1 + 0.01**2) / 2), rel=1e-4)
    assert exact.rows[0].quantity == "euler_v[1]"


def test_bounds_grow_as_precision_falls() -> None:
    for name in ("vision", "logits", "cache", "velocity", "action", "trajectory", "inverse"):
        fp32, fp16, bf16 = (getattr(BOUNDS[p], name) for p in ("fp32", "fp16", "bf16"))
        assert fp32 < fp16 < bf16

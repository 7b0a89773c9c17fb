# SPDX-License-Identifier: Apache-2.0
"""CUDA sources and their compiler: all compile for Hopper, are kept, and are done without where they fail."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alpamayo_rt.kernels.hopper import compiler, expert, factors, gated, patches
from alpamayo_rt.kernels.hopper.availability import Chosen, on_hopper
from alpamayo_rt.kernels.hopper.compiler import CompilerError, compile_source
from alpamayo_rt.kernels.hopper.products import product_function

CODES: list[Callable[[], bytes]] = [factors.code, gated.code, patches.code, expert.code]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "alpamayo-rt" / "kernels"


@pytest.mark.nvrtc
@pytest.mark.parametrize("code", CODES, ids=lambda code: code.__module__.rsplit(".", 1)[1])
def test_compiles_for_hopper_without_a_gpu(code: Callable[[], bytes], empty_cache: Path) -> None:
    made = code()
    assert made.startswith(b"\x7fELF")
    (kept,) = empty_cache.iterdir()
    assert kept.read_bytes() == made


def test_products_name_each_register_once() -> None:
    for n, ways in ((8, (False, False)), (80, (True, False)), (72, (True, True))):
        text = product_function(n, *ways)
        assert f"m64n{n}k16" in text
        assert text.count('"+f"') == n // 2
        operands = text[text.index("wgmma") : text.index("p, 1")]
        count = n // 2 + (4 if ways[0] else 1) + 1
        assert re.findall(r"%(\d+)", operands) == [str(i) for i in range(count)]


@pytest.mark.nvrtc
def test_bad_source_is_one_sentence(empty_cache: Path) -> None:
    with pytest.raises(CompilerError, match=r"CUDA source: .*NOTHING") as caught:
        compile_source('extern "C" __global__ void k() { NOTHING; }', {})
    assert "\n" not in str(caught.value)
    assert not empty_cache.exists()


class Compiler:
    """Counts what it is asked to compile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.asked = 0
        monkeypatch.setattr(compiler, "_compiler", lambda: self)
        monkeypatch.setattr(compiler, "_compiled", self._compiled)

    def nvrtcVersion(self, *_: object) -> int:
        return 0

    def _compiled(self, *_: object) -> bytes:
        self.asked += 1
        return b"code"


def test_code_is_kept_by_all_that_it_depends_on(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Compiler(monkeypatch)
    for _ in range(2):
        assert compile_source("a", {"h": "b"}, ("C=1",)) == b"code"
    assert asked.asked == 1
    for other in (("x", {"h": "b"}, ("C=1",)), ("a", {"h": "x"}, ("C=1",)), ("a", {"h": "b"}, ("C=2",))):
        compile_source(*other)
    assert asked.asked == 4
    assert len(list(empty_cache.iterdir())) == 4


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    asked = Compiler(monkeypatch)
    assert compile_source("a", {}) == compile_source("a", {}) == b"code"
    assert asked.asked == 2


def test_without_a_compiler_the_work_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiler, "load_library", lambda stem: None)
    compiler._compiler.cache_clear()
    chosen = Chosen("some work", lambda: gated.code() and None)
    with caplog.at_level(logging.WARNING):
        assert not chosen()
        assert not chosen()
    (record,) = caplog.records
    assert record.getMessage().startswith("some work: without the kernel for Hopper: NVRTC: no libnvrtc")
    compiler._compiler.cache_clear()


def test_nothing_on_the_cpu_is_on_hopper() -> None:
    assert not on_hopper(torch.zeros(2, 8, dtype=torch.bfloat16))


def test_how_busy_the_gated_kernel_keeps_a_gpu() -> None:
    # 65 tiles of 128 columns by two of 192 rows, on 130 of 132 multiprocessors.
    assert gated.busy(384, 8256, 132) == pytest.approx(384 * 8256 / (132 * 192 * 128))
    assert gated.busy(64, 8256, 132) < 0.2
    assert gated.busy(385, 8256, 132) == pytest.approx(385 * 8256 / (2 * 132 * 192 * 128))

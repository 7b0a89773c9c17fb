# SPDX-License-Identifier: Apache-2.0
"""Files that are refused before TensorRT sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpamayo_rt import EngineError
from alpamayo_rt.tensorrt.build import Limits
from alpamayo_rt.tensorrt.folder import make_recipe
from alpamayo_rt.tensorrt.library import TENSORRT, Library, installed_version, open_library

LIBRARY = Library(None, "tensorrt-rtx", "1.7.1", None)


def test_an_onnx_file_of_another_opset(tmp_path: Path, small_onnx: Path) -> None:
    import onnx

    model = onnx.load(str(small_onnx))
    model.opset_import[0].version = 21
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(
        EngineError, match=r"model.onnx: ONNX opset 21, expected 20, as alpamayo-rt export writes"
    ):
        make_recipe(LIBRARY, "expert", tmp_path / "model.onnx", "sm120", {}, Limits())


def test_an_onnx_file_of_another_part(small_onnx: Path) -> None:
    with pytest.raises(EngineError, match="its metadata say part 'expert', expected 'vision'"):
        make_recipe(LIBRARY, "vision", small_onnx, "sm120", {}, Limits())


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_truncated_onnx_file(tmp_path: Path, small_onnx: Path, size: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_onnx.read_bytes()[:size])
    with pytest.raises(EngineError, match=r"model.onnx: truncated or not an ONNX file"):
        make_recipe(LIBRARY, "expert", path, "sm120", {}, Limits())


def test_equal_files_have_equal_recipes_and_others_not(tmp_path: Path, small_onnx: Path) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(small_onnx.read_bytes())
    first, second = (make_recipe(LIBRARY, "expert", p, "sm120", {}, Limits()) for p in (small_onnx, copy))
    assert first == second
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    assert make_recipe(LIBRARY, "expert", copy, "sm120", {}, Limits()) != first


def test_full_tensorrt_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    open_library.cache_clear()
    with pytest.raises(EngineError, match=r"tensorrt: not installed here .* --backend tensorrt-rtx"):
        open_library(TENSORRT)
    assert installed_version(TENSORRT) is None

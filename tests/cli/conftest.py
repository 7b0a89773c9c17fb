# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import CASES, CHECKPOINT, QUICK, Run, call, pictures, request

import alpamayo_rt
from alpamayo_rt import Model, loading
from alpamayo_rt.cli.main import main

_LOADED: dict[tuple[object, ...], Model] = {}
_load = loading.load


@pytest.fixture(scope="session", autouse=True)
def _model_is_here() -> None:
    if not CHECKPOINT.is_dir():
        pytest.skip(f"no small checkpoint at {CHECKPOINT}")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # The small model's layers are too short for two: on a busy machine each one waits for the second thread.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same model is loaded once for all tests that ask for this; every check of `load` stays."""

    def load(*args: Any, progress: Any = None, **options: Any) -> Model:
        key = (*args, *sorted(options.items()))
        if key not in _LOADED:
            _LOADED[key] = _load(*args, progress=progress, **options)
        return _LOADED[key]

    monkeypatch.setattr(loading, "load", load)


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    return pictures(tmp_path)


@pytest.fixture
def entry(images: list[str]) -> dict[str, Any]:
    """A request that works."""
    return request(images)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    def run(*argv: object) -> Run:
        return call(capsys, *argv)

    return run


@pytest.fixture(scope="session")
def dump_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided cache dump of the small model, as `infer` writes it."""
    folder = tmp_path_factory.mktemp("dump")
    argv = ["infer", "--model", str(CHECKPOINT), "--prepared", str(CASES / "nav_cfg.npz"), *QUICK]
    argv += ["--nav-text", "Turn left in 40m", "--guidance-weight", "1.5"]
    argv += ["--output-file", str(folder / "out.json"), "--dump-kv-cache", str(folder)]
    assert main(argv) == 0
    return folder / "nav_cfg.safetensors"


@pytest.fixture(scope="session")
def model() -> Model:
    return alpamayo_rt.load(str(CHECKPOINT), "eager", "fp32", "cpu")

# SPDX-License-Identifier: Apache-2.0
"""Runs that several tests look at."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from eval_runs import evaluate


@pytest.fixture(scope="session")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 clips of the demo world by the constant turn rate; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "turning"
    assert evaluate(run, model="baseline:constant-turn-rate", clips="world-live:0:40") == 0
    return run


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips by constant velocity; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    assert evaluate(run, model="baseline:constant-velocity", clips="world-live:0:40") == 0
    return run


@pytest.fixture(scope="session")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips by nano, with pictures and words; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "driven"
    assert evaluate(run, "--num-candidates", 3, "--num-diffusion-steps", 4, "--best-of", 2) == 0
    return run


@pytest.fixture
def chromium() -> str:
    """The browser, by whatever name it is installed."""
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )
    if found is None:
        pytest.skip("Chromium is not installed")
    subprocess.run([found, "--version"], check=True, capture_output=True)
    return found

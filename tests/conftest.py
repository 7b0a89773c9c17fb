# SPDX-License-Identifier: Apache-2.0
"""Models and recorded cases that all tests share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from random_checkpoint import write_random_super
from situations import GOLDEN, SHIPPED

from alpamayo_rt import Model, load

# Two threads wait for each other on a busy machine of two cores; these models are too small to need them.
torch.set_num_threads(1)
# The same examples on every run, so that a red run is the change's doing;
# `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("steady", deadline=None, max_examples=25, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of all reference cases; what needs more than the shipped ones skips where it is absent."""
    if not GOLDEN.is_dir():
        pytest.skip(f"the full reference cases are not at {GOLDEN} (set ALPAMAYO_RT_GOLDEN to their folder)")
    return GOLDEN


@pytest.fixture(scope="session")
def model_1_5() -> Model:
    """The tiny Alpamayo 1.5, float32 on the CPU; shipped with the tests."""
    return load(str(SHIPPED / "model" / "checkpoint"), "eager", "fp32", "cpu")


@pytest.fixture(scope="session")
def model_r1(golden: Path) -> Model:
    """The tiny Alpamayo R1, float32 on the CPU."""
    return load(str(golden / "alpamayo_r1" / "model" / "checkpoint"), "eager", "fp32", "cpu")


@pytest.fixture(scope="session")
def super_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Alpamayo 2 Super with random weights in five shards; not to be changed."""
    return write_random_super(tmp_path_factory.mktemp("super") / "checkpoint", 5)


@pytest.fixture(scope="session")
def model_2_super(super_folder: Path) -> Model:
    """The same, float32 on the CPU."""
    return load(str(super_folder), "eager", "fp32", "cpu")


@pytest.fixture(scope="session", params=["alpamayo1_5", "alpamayo_r1"])
def model(request: pytest.FixtureRequest) -> Model:
    """Each of the two families."""
    return request.getfixturevalue({"alpamayo1_5": "model_1_5", "alpamayo_r1": "model_r1"}[request.param])


@pytest.fixture(scope="session")
def export_1_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts of the tiny Alpamayo 1.5 as ONNX, float32, contract shared; not to be changed."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    from alpamayo_rt.checkpoint import open_checkpoint
    from alpamayo_rt.export.run import export_model

    # Tracing takes half a minute: of the processes that run side by side, the first does it for all.
    place = tmp_path_factory.getbasetemp()
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "shared-export"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "model").exists():
            checkpoint = open_checkpoint(str(SHIPPED / "model" / "checkpoint"))
            export_model(checkpoint, folder / "made", precision="fp32")
            (folder / "made").rename(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test leaves in the user's cache is the test's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield

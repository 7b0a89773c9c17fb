# SPDX-License-Identifier: Apache-2.0
"""The contract's operations: twins against float64, kernels (in Triton's interpreter) against the twins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alpamayo_rt.kernels.contract import operations as ops

GPU = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=GPU)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("slots", "wanted", "length"), [(11, 16, 9), (16, 16, 16), (40, 33, 33), (5, 7, 0)])
def test_repeat_cache(source: torch.dtype, slots: int, wanted: int, length: int, device: str) -> None:
    # The cache is a view into a larger buffer, so that no stride equals a product of sizes.
    buffer = random(3, 2, 2, slots + 3, 32, dtype=source).to(device)
    cache = buffer[:, :, :, 1 : slots + 1]
    out = torch.full((6, 5, 2, wanted, 32), torch.nan, device=device)
    ops.repeat_cache(cache[:, 0], cache[:, 1], out, torch.tensor(length, device=device))
    expected = torch.zeros(3, 2, 5, 2, wanted, 32, dtype=torch.float64)
    expected[..., :length, :] = cache[:, :, None, :, :length].double().cpu()
    assert torch.equal(out.cpu().double(), expected.flatten(0, 1))


def test_repeat_cache_into_half(device: str) -> None:
    cache = random(2, 2, 1, 6, 16, dtype=torch.bfloat16).to(device)
    out = torch.empty(4, 3, 1, 8, 16, dtype=torch.float16, device=device)
    ops.repeat_cache(cache[:, 0], cache[:, 1], out, torch.tensor(6, device=device))
    assert torch.equal(out[:, 2, :, :6].cpu(), cache.flatten(0, 1).half().cpu())


@pytest.mark.parametrize("candidates", [1, 6])
def test_build_position_ids(candidates: int, device: str) -> None:
    start = torch.arange(candidates, device=device) * 7 + 519
    out = torch.full((3, candidates, 64), -1, device=device)
    ops.build_position_ids(start, out)
    expected = [[[519 + 7 * b + w for w in range(64)] for b in range(candidates)]] * 3
    assert out.tolist() == expected


def test_fill_timestep(device: str) -> None:
    times = torch.linspace(0, 1, 11, device=device)
    out = torch.full((6, 1, 1), torch.nan, device=device)
    ops.fill_timestep(times[3], out)
    assert out.flatten().tolist() == [float(times[3])] * 6


def test_euler_update(device: str) -> None:
    x, velocity, dt = random(6, 64, 2), random(6, 64, 2, seed=1), torch.tensor(0.1)
    expected = x.double() + velocity.double() * dt.double()
    mine = x.to(device)
    ops.euler_update(mine, velocity.to(device), dt.to(device))
    assert float((mine.cpu().double() - expected).abs().max()) < 5e-7


def test_kernels_in_the_interpreter() -> None:
    """The tests above once more with Triton's kernels, which run in numpy where there is no GPU."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available():
        return  # the tests above are that run
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1", "ALPAMAYO_RT_NO_SKIPS": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_interpreter_is_what_runs_there() -> None:
    expected = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    assert ops.uses_triton(torch.empty(1, device="cuda" if torch.cuda.is_available() else "cpu")) == expected

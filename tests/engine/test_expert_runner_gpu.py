# SPDX-License-Identifier: Apache-2.0
"""The runner's path on a GPU: kernels, fixed buffers, captured graphs; torch stands in for TensorRT."""

from __future__ import annotations

import pytest
import torch
from situations import SHIPPED
from test_expert_runner import SEQUENCES, noise, reasoned, runner_of

from alpamayo_rt import Model, load
from alpamayo_rt.engine.bindings import FUSED, SHARED

pytestmark = pytest.mark.gpu
CLOSE = {"rtol": 1e-3, "atol": 2e-4}


@pytest.fixture(scope="module")
def on_gpu() -> Model:
    return load(str(SHIPPED / "model" / "checkpoint"), "eager", "fp32", "cuda")


@pytest.mark.parametrize("contract", [FUSED, SHARED])
def test_a_captured_flow_equals_the_eager_one(on_gpu: Model, contract: str) -> None:
    runner, session = runner_of(on_gpu, contract, capture=True)
    for seed, tokens in enumerate((SEQUENCES, [[1, 2, 3], [4], [5, 6, 7, 8]], SEQUENCES[:1])):
        handed = reasoned(on_gpu, tokens, 3)
        action = runner.denoise(noise(3, seed), 10, handed)
        torch.testing.assert_close(action, on_gpu.engine.denoise(noise(3, seed), 10, handed), **CLOSE)
        again = runner.denoise(noise(3, seed + 5), 10, handed)
        torch.testing.assert_close(again, on_gpu.engine.denoise(noise(3, seed + 5), 10, handed), **CLOSE)
    assert (runner.capture, runner.not_captured) == (True, "")
    # Warm-up and capture run the session, 20 times a graph; every further request is a replay.
    assert len(session.fed) == 20 * len(runner._graphs)
    assert len(runner._graphs) <= 3


@pytest.mark.parametrize("contract", [FUSED, SHARED])
def test_guidance_in_one_graph(on_gpu: Model, contract: str) -> None:
    handed, plain = reasoned(on_gpu, SEQUENCES, 3), reasoned(on_gpu, SEQUENCES, 3, (1,))
    runner, _ = runner_of(on_gpu, contract, capture=True)
    for weight in (1.5, 3.0):
        action = runner.denoise(noise(3), 5, handed, plain, weight)
        torch.testing.assert_close(action, on_gpu.engine.denoise(noise(3), 5, handed, plain, weight), **CLOSE)
    assert len(runner._graphs) == 1

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from alpamayo_rt.config import ActionInConfig
from alpamayo_rt.model.action_projection import ActionInProjection, FourierFeatures


def test_features_are_all_sines_then_all_cosines_times_root_two() -> None:
    fourier = FourierFeatures(20, 100.0)
    frequencies = [10 ** (2 * j / 9) for j in range(10)]
    assert fourier.freqs[0].tolist() == pytest.approx(frequencies, rel=1e-6)
    u = torch.tensor([0.0, 0.3, -1.7])
    for value, ours in zip(u.tolist(), fourier(u).tolist(), strict=True):
        angles = [2 * math.pi * f * value for f in frequencies]
        expected = [math.sqrt(2) * g(a) for g in (math.sin, math.cos) for a in angles]
        assert ours == pytest.approx(expected, abs=2e-3 * abs(value) + 1e-6)


def test_features_of_zero() -> None:
    assert FourierFeatures(4, 100.0)(torch.zeros(1))[0].tolist() == pytest.approx([0, 0, 2**0.5, 2**0.5])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projection_equals_the_formula_written_out(layers: int) -> None:
    torch.manual_seed(2)
    projection = ActionInProjection(ActionInConfig(8, layers, 6, 100.0), 12)
    actions, time = torch.randn(2, 5, 2), torch.tensor(0.3)
    trunk = projection.encoder.trunk
    features = FourierFeatures(6, 100.0)
    x = torch.cat([features(actions[..., 0]), features(actions[..., 1]), features(time.expand(2, 5))], -1)
    x = F.silu(trunk[0](x))
    for i in range(layers):
        x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * trunk[2 + 3 * i].weight
        x = trunk[3 + 3 * i](x)
        x = x if i == layers - 1 else F.silu(x)
    expected = F.layer_norm(x, (12,), projection.norm.weight, projection.norm.bias, 1e-5)
    assert torch.allclose(projection(actions, time), expected, atol=1e-5)


def test_tensor_names_are_those_of_the_checkpoint() -> None:
    names = dict(ActionInProjection(ActionInConfig(8, 2, 6, 100.0), 12).named_parameters())
    assert {n.split(".")[2] for n in names if n.startswith("encoder.trunk.")} == {"0", "2", "3", "5", "6"}
    projected = dict(ActionInProjection(ActionInConfig(8, 2, 6, 100.0), 12).named_buffers())
    assert set(projected) == {"sinus.0.freqs", "sinus.1.freqs", "timestep_fourier_encoder.freqs"}


def test_features_stay_float32_in_a_half_precision_model() -> None:
    torch.manual_seed(3)
    projection = ActionInProjection(ActionInConfig(8, 2, 20, 100.0), 12)
    frequencies = projection.sinus[0].freqs
    seen: list[torch.Tensor] = []
    projection.sinus[0].register_forward_hook(lambda module, args, out: seen.append(out))
    actions = torch.randn(1, 4, 2)
    projection.encoder.bfloat16()
    projection.norm.bfloat16()
    assert projection(actions, torch.tensor(0.5)).dtype == torch.bfloat16
    assert frequencies.dtype == seen[0].dtype == torch.float32

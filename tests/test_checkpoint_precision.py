# SPDX-License-Identifier: Apache-2.0
"""Weights and statistics in the type a model is loaded in (formulas "Action input projection")."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from checkpoint_files import copied, edit_json, edit_tensors, stored_statistics
from safetensors.torch import load_file

from alpamayo_rt import Model, ModelError, load
from alpamayo_rt.checkpoint import load_network, open_checkpoint
from alpamayo_rt.model.network import Network

BF16_FREQUENCIES = [1, 1.671875, 2.78125, 4.65625, 7.75, 12.9375, 21.5, 36, 60, 100]
BF16_STATISTICS = [0.029052734375, 0.6796875, 0.0002689361572265625, 0.026123046875]
EXACT_STATISTICS = [0.02902694707164455, 0.6810426736454882, 0.0002692167976330542, 0.026148280660833106]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def network_of(folder: Path, dtype: torch.dtype) -> Network:
    return load_network(open_checkpoint(str(folder)), torch.device("cpu"), dtype)


def statistics(network: Network) -> list[float]:
    s = network.action_space
    return [float(v) for v in (s.accel_mean, s.accel_std, s.curvature_mean, s.curvature_std)]


def frequencies(network: Network) -> list[torch.Tensor]:
    projection = network.expert.action_in_proj
    return [m.freqs[0] for m in (*projection.sinus, projection.timestep_fourier_encoder)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied(tmp_path)


@pytest.fixture
def r1_folder(folder: Path) -> Path:
    """An R1 checkpoint made of the 1.5 one: its config's family, and statistics among its tensors."""
    edit_json(folder / "config.json", lambda config: config.update(model_type="alpamayo_r1"))
    stored = torch.tensor([BF16_FREQUENCIES], dtype=torch.bfloat16)
    edit_tensors(folder, lambda tensors: tensors.update(stored_statistics(stored)))
    return folder


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_weights_have_the_type_and_buffers_are_float32(dtype: torch.dtype, folder: Path) -> None:
    network = network_of(folder, dtype)
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert {b.dtype for b in network.buffers()} == {torch.float32}
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(network.language.lm_head.weight, stored["vlm.lm_head.weight"].to(dtype))
    assert torch.equal(network.expert.decoder.norm.weight, stored["expert.norm.weight"].to(dtype))
    kernel = stored["vlm.model.visual.patch_embed.proj.weight"]
    assert torch.equal(network.vision.patch_embed.proj.weight, kernel.to(dtype))


def test_1_5_computes_its_statistics_in_the_loaded_type(folder: Path) -> None:
    in_bf16 = network_of(folder, torch.bfloat16)
    assert statistics(in_bf16) == BF16_STATISTICS
    assert all(f.tolist() == BF16_FREQUENCIES for f in frequencies(in_bf16))
    in_fp32 = network_of(folder, torch.float32)
    assert statistics(in_fp32) == pytest.approx(EXACT_STATISTICS, rel=1e-7)
    expected = [10 ** (2 * j / 9) for j in range(10)]
    assert all(f.tolist() == pytest.approx(expected, rel=1e-6) for f in frequencies(in_fp32))
    in_fp16 = network_of(folder, torch.float16)
    assert statistics(in_fp16) == torch.tensor(EXACT_STATISTICS).half().tolist()
    assert all(
        torch.equal(h, f.half().float())
        for h, f in zip(frequencies(in_fp16), frequencies(in_fp32), strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_r1_uses_its_statistics_as_stored(dtype: torch.dtype, r1_folder: Path) -> None:
    network = network_of(r1_folder, dtype)
    assert statistics(network) == [0.125, 0.7265625, 0.0625, 0.0260009765625]
    stored = torch.tensor(BF16_FREQUENCIES)
    assert all(torch.equal(f, stored * 2**i) for i, f in enumerate(frequencies(network)))


def test_r1_statistics_in_float32_are_not_rounded_to_the_loaded_type(r1_folder: Path) -> None:
    odd = torch.tensor(math.pi, dtype=torch.float32)
    edit_tensors(r1_folder, lambda tensors: tensors.update({"action_space.accel_std": odd}))
    assert statistics(network_of(r1_folder, torch.bfloat16))[1] == float(odd)


@pytest.mark.parametrize("name", ["action_space.accel_mean", "action_in_proj.sinus.1.freqs"])
def test_r1_without_a_stored_statistic_is_refused(name: str, r1_folder: Path) -> None:
    edit_tensors(r1_folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"missing: {name}"):
        network_of(r1_folder, torch.float32)


@pytest.mark.parametrize("precision", DTYPES)
def test_trajectories_use_the_statistics_of_the_precision(precision: str, folder: Path) -> None:
    model = load(str(folder), "eager", precision, "cpu")
    rounded = torch.tensor(EXACT_STATISTICS).to(DTYPES[precision]).float()
    assert torch.equal(model.unicycle.denormalize(torch.zeros(2)), rounded[[0, 2]])
    assert torch.equal(model.unicycle.std, rounded[[1, 3]])
    assert model.engine.precision == precision


def test_released_r1_file_stores_them_in_bfloat16(model_r1: Model) -> None:
    stored = {
        n: t for n, t in model_r1.checkpoint.tensors.items() if "freqs" in n or n.startswith("action_space")
    }
    assert len(stored) == 7
    assert all(t.dtype == "BF16" for t in stored.values())

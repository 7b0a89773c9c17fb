# SPDX-License-Identifier: Apache-2.0
"""Norms, rotary positions, activations: twins against float64 and the modules, kernels against the twins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.layers import action, decoder, rounding, vision
from alpamayo_rt.model.decoder import RMSNorm
from alpamayo_rt.model.rotary import rotate
from alpamayo_rt.quantization.formats import E4m3, from_e4m3, to_e4m3

DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]
TYPES = [torch.float32, torch.bfloat16]
# Triton's interpreter cuts bfloat16 and e4m3 off where a GPU rounds it.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2.5e-2 if INTERPRETED else 8e-3}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(ours: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    ours, expected = ours.cpu().double(), expected.cpu().double()
    assert (ours - expected).norm() <= TOLERANCE[dtype] * expected.norm()


def near_codes(values: torch.Tensor, scale: torch.Tensor, wanted: E4m3) -> None:
    # A value between two codes may fall either way. Triton's interpreter loses the carry into the exponent when
    # it rounds to e4m3 (126 becomes 64), which concerns one value in thirty.
    ours, theirs = from_e4m3(E4m3(values.cpu(), scale.cpu())), from_e4m3(wanted)
    far = (ours - theirs).abs() > theirs.abs() / 7 + wanted.scale / 256
    assert float(far.float().mean()) <= (0.06 if INTERPRETED else 0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "hidden"), [(1, 24), (5, 160), (3, 1000)])
@pytest.mark.parametrize("narrow", ["no", "token", "static"])
def test_add_rms_norm(dtype: torch.dtype, n: int, hidden: int, narrow: str, device: str) -> None:
    x, delta = random(n, hidden, seed=1, dtype=dtype), random(n, hidden, seed=2, dtype=dtype)
    weight, feature = random(hidden, seed=3, dtype=dtype), random(2, hidden, seed=4, dtype=dtype)
    row = torch.tensor([1, -1, 0, -1, 1])[:n]
    stream = x + delta
    stream = torch.where(row[:, None] >= 0, stream + feature[row.clamp(min=0)], stream)
    norm = RMSNorm(hidden, 1e-6)
    norm.weight = torch.nn.Parameter(weight, requires_grad=False)
    expected = norm(stream)
    ours = x.clone().to(device)
    scale = torch.full((n, 1), torch.nan, device=device) if narrow != "no" else None
    fixed = torch.tensor(0.01, device=device) if narrow == "static" else None
    out = torch.full((n, hidden), 7.0, dtype=dtype, device=device)
    if scale is not None:
        out = out.to(torch.float8_e4m3fn)
    arguments = [delta, weight, 1e-6, out, scale, fixed, feature, row]
    decoder.add_rms_norm(ours, *[a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments])
    near(ours, stream, dtype)
    if scale is None:
        near(out, expected, dtype)
    else:
        wanted = to_e4m3(expected, None if fixed is None else fixed.cpu())
        near(scale, wanted.scale, dtype)
        near_codes(out, scale, wanted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "heads", "kv", "d"), [(1, 4, 2, 8), (3, 6, 3, 24), (70, 9, 3, 16), (2, 0, 5, 8)])
def test_qk_norm_rope(dtype: torch.dtype, n: int, heads: int, kv: int, d: int, device: str) -> None:
    qkv = random(n, (heads + 2 * kv) * d, seed=1, dtype=dtype)
    norms = [RMSNorm(d, 1e-6), RMSNorm(d, 1e-6)]
    for i, norm in enumerate(norms):
        norm.weight = torch.nn.Parameter(random(d, seed=2 + i, dtype=dtype), requires_grad=False)
    angles = random(n, d // 2, seed=5)
    cos, sin = angles.cos(), angles.sin()
    slots = torch.randperm(n + 4, generator=torch.Generator().manual_seed(0))[:n]
    planes = torch.full((kv, 2, n + 4, d), 7.0, dtype=dtype, device=device)
    q_out = torch.full((n, heads, d), 7.0, dtype=dtype, device=device) if heads else None
    decoder.qk_norm_rope(
        qkv.to(device), norms[0].weight.to(device), norms[1].weight.to(device), 1e-6, cos.to(device),
        sin.to(device), slots.to(device), q_out, planes[:, 0], planes[:, 1],
    )  # fmt: skip
    q, k, v = (part.transpose(0, 1) for part in qkv.view(n, -1, d).split([heads, kv, kv], 1))
    both = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    if q_out is not None:
        near(q_out, rotate(norms[0](q), *both).transpose(0, 1), dtype)
    near(planes[:, 0, slots], rotate(norms[1](k), *both), dtype)
    assert torch.equal(planes[:, 1, slots].cpu(), v)
    untouched = [i for i in range(n + 4) if i not in slots.tolist()]
    assert bool((planes[:, :, untouched] == 7).all())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "heads", "kv", "d"), [(5, 4, 2, 8), (70, 6, 3, 24)])
def test_what_follows_a_product_of_the_stream_does_the_norm(
    dtype: torch.dtype, n: int, heads: int, kv: int, d: int, device: str
) -> None:
    # The norm's weights are part of the matrix.
    hidden, inner = 40, 24
    stream = 3 * random(n, hidden, seed=1, dtype=dtype)
    normed = stream.double() * torch.rsqrt(stream.double().square().mean(-1, keepdim=True) + 1e-6)
    products = [random((heads + 2 * kv) * d, hidden, seed=2), random(2 * inner, hidden, seed=3)]
    raw, divided = ([(x.double() @ w.double().T).to(dtype) for w in products] for x in (stream, normed))
    angles = random(n, d // 2, seed=5).to(device)
    slots = torch.randperm(n + 4, generator=torch.Generator().manual_seed(0))[:n].to(device)
    places = (angles.cos(), angles.sin(), slots)
    norms = random(2, d, seed=6, dtype=dtype).to(device)
    found = []
    for product, given in ((raw[0], stream.to(device)), (divided[0], None)):
        q_out = torch.empty(n, heads, d, dtype=dtype, device=device)
        planes = torch.full((2, kv, n + 4, d), 7.0, dtype=dtype, device=device)
        decoder.qk_norm_rope(product.to(device), *norms, 1e-6, *places, q_out, *planes, given)
        found.append((q_out, planes))
    for mine, other in zip(*found, strict=True):
        near(mine, other, dtype)
    opened = []
    for product, given in ((raw[1], stream.to(device)), (divided[1], None)):
        out = torch.empty(n, inner, dtype=dtype, device=device)
        decoder.swiglu(product.to(device), out, None, None, given, 1e-6)
        opened.append(out)
    near(*opened, dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("narrow", ["no", "token", "static"])
def test_swiglu(dtype: torch.dtype, narrow: str, device: str) -> None:
    gate_up = random(3, 2 * 2100, dtype=dtype)
    expected = F.silu(gate_up[:, :2100]) * gate_up[:, 2100:]
    scale = torch.full((3, 1), torch.nan, device=device) if narrow != "no" else None
    fixed = torch.tensor(0.02, device=device) if narrow == "static" else None
    out = torch.full((3, 2100), 7.0, dtype=dtype, device=device)
    if scale is not None:
        out = out.to(torch.float8_e4m3fn)
    decoder.swiglu(gate_up.to(device), out, scale, fixed)
    if scale is None:
        near(out, expected, dtype)
    else:
        wanted = to_e4m3(expected, None if fixed is None else fixed.cpu())
        near_codes(out, scale, wanted)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
@pytest.mark.parametrize("columns", [72, 300, 2048, 4304])
@pytest.mark.parametrize("static", [False, True])
def test_quantize(
    dtype: torch.dtype, gelu: rounding.Gelu | None, columns: int, static: bool, device: str
) -> None:
    x = 4 * random(5, columns, dtype=dtype)
    x[2] = 0
    x[3, 1:3] = torch.tensor([80.0, -90.0])
    fixed = torch.tensor(0.01) if static else None
    out = torch.empty(5, columns, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.full((5, 1), torch.nan, device=device)
    rounding.quantize(x.to(device), out, scale, None if fixed is None else fixed.to(device), gelu)
    wanted = to_e4m3(x if gelu is None else F.gelu(x.double(), approximate=gelu).to(dtype), fixed)
    near(scale, wanted.scale, dtype if gelu else torch.float32)
    near_codes(out, scale, wanted)
    assert bool((out[2].float() == 0).all())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("hidden", [72, 1152, 2304])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_add_layer_norm_in_e4m3(dtype: torch.dtype, hidden: int, static: bool, adds: bool, device: str) -> None:
    x, delta = random(5, hidden, seed=1, dtype=dtype) + 3, random(5, hidden, seed=2, dtype=dtype)
    weight, bias = random(hidden, seed=3, dtype=dtype), random(hidden, seed=4, dtype=dtype)
    shift, fixed = random(hidden, seed=5), torch.tensor(0.005) if static else None
    ours = x.clone().to(device)
    out = torch.empty(5, hidden, dtype=torch.float8_e4m3fn, device=device)
    scale = torch.full((5, 1), torch.nan, device=device)
    given = (delta if adds else None, weight, bias)
    vision.add_layer_norm(
        ours, *(None if t is None else t.to(device) for t in given), 1e-6, out, shift.to(device), scale,
        None if fixed is None else fixed.to(device),
    )  # fmt: skip
    stream = x + delta if adds else x
    near(ours, stream, dtype)
    normed = F.layer_norm(stream.double() + shift, (hidden,), weight.double(), bias.double(), 1e-6)
    wanted = to_e4m3(normed.to(dtype), fixed)
    near(scale, wanted.scale, dtype)
    near_codes(out, scale, wanted)


@pytest.mark.parametrize("dtype", TYPES)
def test_add_layer_norm(dtype: torch.dtype, device: str) -> None:
    x, delta = random(5, 72, seed=1, dtype=dtype) + 3, random(5, 72, seed=2, dtype=dtype)
    weight, bias = random(72, seed=3, dtype=dtype), random(72, seed=4, dtype=dtype)
    ours, out = x.clone().to(device), torch.empty_like(x, device=device)
    vision.add_layer_norm(ours, delta.to(device), weight.to(device), bias.to(device), 1e-6, out)
    near(ours, x + delta, dtype)
    near(out, F.layer_norm((x + delta).double(), (72,), weight.double(), bias.double(), 1e-6), dtype)
    shift = random(72, seed=5)
    vision.add_layer_norm(ours, None, weight.to(device), bias.to(device), 1e-6, out, shift.to(device))
    shifted = (x + delta).double() + shift
    near(out, F.layer_norm(shifted, (72,), weight.double(), bias.double(), 1e-6), dtype)
    near(ours, x + delta, dtype)


def test_action_features(device: str) -> None:
    x, time, freqs = random(7, 2), torch.tensor(0.3), torch.logspace(0, 2, 10).expand(3, 10).contiguous()
    out = torch.empty(7, 60, device=device)
    action.action_features(x.to(device), time.to(device), freqs.to(device), out)
    parts = []
    for u in (x[:, 0], x[:, 1], time.expand(7)):
        argument = (u[:, None] * freqs[0] * 2 * torch.pi).double()
        parts += [argument.sin(), argument.cos()]
    assert (out.cpu() - torch.cat(parts, -1) * 2**0.5).abs().max() < 1e-4  # phases of hundreds of radians


@pytest.mark.parametrize("dtype", TYPES)
def test_ends_of_the_expert(dtype: torch.dtype, device: str) -> None:
    x, weight = random(6, 48, dtype=dtype), random(48, seed=1, dtype=dtype)
    out = torch.empty_like(x, device=device)
    action.silu_rms_norm(x.to(device), weight.to(device), 1e-5, out)
    y = F.silu(x.double())
    near(out, weight * y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("added", [False, True])
def test_velocity_and_its_step(dtype: torch.dtype, added: bool, device: str) -> None:
    x, delta = 3 * random(6, 48, dtype=dtype), random(6, 48, seed=1, dtype=dtype) if added else None
    norm = RMSNorm(48, 1e-6)
    norm.weight = torch.nn.Parameter(random(48, seed=2, dtype=dtype), requires_grad=False)
    head, bias = random(2, 48, seed=3, dtype=dtype), random(2, seed=4, dtype=dtype)
    hidden = norm(x if delta is None else x + delta)
    expected = F.linear(hidden.double(), head.double(), bias.double())
    given = [None if part is None else part.to(device) for part in (x, delta, norm.weight)]
    last = head.to(device), bias.to(device)
    found = torch.full((6, 2), torch.nan, device=device)
    action.velocity(*given, 1e-6, *last, found)
    near(found, expected, dtype)
    start = random(6, 2, seed=5)
    moved = start.clone().to(device)
    action.velocity(*given, 1e-6, *last, moved, 0.1)
    near(moved, start + 0.1 * expected, dtype)
    assert given[0] is not None
    assert torch.equal(given[0].cpu(), x)


def test_kernels_in_the_interpreter() -> None:
    """The tests above once more with Triton's kernels, which run in numpy where there is no GPU."""
    pytest.importorskip("triton")
    if INTERPRETED or torch.cuda.is_available():
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

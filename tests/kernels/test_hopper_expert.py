# SPDX-License-Identifier: Apache-2.0
"""The expert's attention with warps that specialise: against float64 on a Hopper GPU; without one, compiled."""

from __future__ import annotations

import pytest
import torch

from alpamayo_rt.kernels.attention import operations as ops
from alpamayo_rt.kernels.attention.scratch import ExpertConfiguration, ExpertScratch, expert_configuration

triton = pytest.importorskip("triton")

WAYPOINTS, KV_HEADS, DIM, ROOM = 64, 8, 128, 320


def error(out: torch.Tensor, exact: torch.Tensor) -> float:
    assert bool(out.isfinite().all())
    return float((out.double() - exact).norm() / exact.norm())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("candidates", "heads", "waypoints", "prefix", "splits", "own_tails"),
    [
        (6, 16, 64, 3119, None, False),
        (6, 16, 64, 3119, None, True),
        (6, 16, 64, 64, None, True),
        (6, 16, 64, 0, 3, True),
        (3, 16, 64, 63, 2, False),
        (5, 8, 64, 700, None, True),
        (16, 16, 64, 3119, None, True),
        (2, 32, 128, 130, None, True),
    ],
)
def test_against_float64(
    candidates: int,
    heads: int,
    waypoints: int,
    prefix: int,
    splits: int | None,
    own_tails: bool,
    dtype: torch.dtype,
) -> None:
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("no Hopper GPU")
    from alpamayo_rt.kernels.attention import choice

    generator = torch.Generator("cuda").manual_seed(candidates + prefix)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", generator=generator).to(dtype)

    start = -(-prefix // 64) * 64
    planes = random(2, KV_HEADS, start + candidates * ROOM, DIM)
    sequences = torch.arange(candidates, device="cuda") * own_tails
    lengths = torch.randint(0, ROOM, (candidates,), device="cuda", generator=generator)
    if not own_tails:
        lengths[:] = 31
    # What nobody may see is no number.
    planes[:, :, prefix:start] = torch.nan
    for row in range(candidates):
        here = lengths[sequences == row]
        used = int(here.max()) if len(here) else 0
        planes[:, :, start + row * ROOM + used : start + (row + 1) * ROOM] = torch.nan
    q = random(candidates, waypoints, heads, DIM)
    own = random(2, candidates, waypoints, KV_HEADS, DIM)
    chosen = expert_configuration(candidates, waypoints, heads, KV_HEADS, half_parts=True)
    assert chosen.specialized
    if splits is not None:
        chosen = ExpertConfiguration(splits, half_parts=True, specialized=True)
    scratch = ExpertScratch.allocate(candidates, waypoints, heads, KV_HEADS, DIM, "cuda", chosen)
    scratch.parts.fill_(torch.nan)
    assert choice.suits_hopper(q, *planes, *own, scratch)
    seen = (torch.tensor(prefix, device="cuda"), start, ROOM, sequences, lengths)
    exact = torch.empty(q.shape, dtype=torch.float64, device="cuda")
    ops.expert_attention_twin(q.double(), *planes.double(), *seen, *own.double(), DIM**-0.5, exact)
    outs = [torch.full_like(q, torch.nan) for _ in range(5)]
    for out in outs:
        ops.expert_attention(q, *planes, *seen, *own, DIM**-0.5, out, scratch)
    assert error(outs[0], exact) < 4e-3
    assert all(torch.equal(outs[0], out) for out in outs)


def test_compiles_for_hopper_without_a_gpu() -> None:
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    from alpamayo_rt.kernels.attention.hopper_expert import _expert
    from alpamayo_rt.kernels.attention.scratch import UNITS

    constants = {"GROUP": 2, "SPLITS": 4, "STAGES": 3, "MEMBERS": UNITS}
    layout = gl.NVMMASharedLayout.get_default_for([64, DIM], gl.bfloat16)
    kinds = dict.fromkeys(constants, "constexpr") | {"scale": "fp32", "log_sums": "*fp32"}
    kinds |= dict.fromkeys(("prefix_length", "tail_sequence", "tail_length"), "*i64")
    kinds |= dict.fromkeys(
        ("q", "keys", "values", "own_keys", "own_values"), f"tensordesc<bf16[64, {DIM}],{layout!r}>"
    )
    kinds["parts"] = f"tensordesc<fp16[64, {DIM}],{layout!r}>"
    names = [parameter.name for parameter in _expert.params]
    source = GluonASTSource(
        fn=_expert,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert "wgmma.mma_async" in made.asm["ptx"]
    assert len(made.asm["cubin"]) > 1000
    assert made.metadata.shared <= 227 * 1024

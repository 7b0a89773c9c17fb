# SPDX-License-Identifier: Apache-2.0
"""The expert's attention on Hopper: against float64 on such a GPU; without one, when it is chosen."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass

import pytest
import torch
from hopper_cases import distance, needs_hopper

from alpamayo_rt.kernels.attention import operations as ops
from alpamayo_rt.kernels.attention.scratch import ExpertConfiguration, ExpertScratch, expert_configuration
from alpamayo_rt.kernels.hopper.availability import Chosen
from alpamayo_rt.kernels.hopper.compiler import CompilerError
from alpamayo_rt.kernels.hopper.driver import DriverError

pytest.importorskip("triton")

from alpamayo_rt.kernels.attention import choice, triton_expert
from alpamayo_rt.kernels.hopper import expert

KV_HEADS, DIM, ROOM = 8, 128, 320


@dataclass
class Case:
    """Arguments of `expert_attention`, in its order, and how its work is divided."""

    q: torch.Tensor
    planes: torch.Tensor
    seen: tuple[torch.Tensor, int, int, torch.Tensor, torch.Tensor]
    own: torch.Tensor
    scratch: ExpertScratch

    def arguments(self, out: torch.Tensor) -> tuple[object, ...]:
        return (self.q, *self.planes, *self.seen, *self.own, DIM**-0.5, out, self.scratch)

    def suits(self) -> bool:
        return expert.suits(self.q, *self.planes, *self.own, self.scratch)

    def kernel(self) -> object:
        return choice.expert_kernel(self.q, *self.planes, *self.own, self.scratch)

    def exact(self) -> torch.Tensor:
        out = torch.empty(self.q.shape, dtype=torch.float64, device=self.q.device)
        q, planes, own = self.q.double(), self.planes.double(), self.own.double()
        ops.expert_attention_twin(q, *planes, *self.seen, *own, DIM**-0.5, out)
        return out


def case(
    candidates: int,
    heads: int,
    waypoints: int,
    prefix: int,
    splits: int | None = None,
    own_tails: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cuda",
    dim: int = DIM,
) -> Case:
    """What nobody may see is no number."""
    generator = torch.Generator(device).manual_seed(candidates + prefix)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=generator).to(dtype)

    start = -(-prefix // 64) * 64
    planes = random(2, KV_HEADS, start + candidates * ROOM, dim)
    sequences = torch.arange(candidates, device=device) * own_tails
    lengths = torch.randint(0, ROOM, (candidates,), device=device, generator=generator)
    if not own_tails:
        lengths[:] = 31
    planes[:, :, prefix:start] = torch.nan
    for row in range(candidates):
        here = lengths[sequences == row]
        used = int(here.max()) if len(here) else 0
        planes[:, :, start + row * ROOM + used : start + (row + 1) * ROOM] = torch.nan
    chosen = expert_configuration(candidates, waypoints, heads, KV_HEADS, half_parts=True)
    if splits is not None:
        chosen = ExpertConfiguration(splits, half_parts=True, specialized=True)
    scratch = ExpertScratch.allocate(candidates, waypoints, heads, KV_HEADS, dim, device, chosen)
    scratch.parts.fill_(torch.nan)
    return Case(
        random(candidates, waypoints, heads, dim),
        planes,
        (torch.tensor(prefix, device=device), start, ROOM, sequences, lengths),
        random(2, candidates, waypoints, KV_HEADS, dim),
        scratch,
    )


@pytest.mark.gpu
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
        (6, 32, 64, 3119, None, True),
        (2, 32, 128, 130, None, True),
    ],
)
def test_against_float64(
    candidates: int, heads: int, waypoints: int, prefix: int, splits: int | None, own_tails: bool
) -> None:
    needs_hopper()
    made = case(candidates, heads, waypoints, prefix, splits, own_tails)
    assert made.suits()
    outs = [torch.full_like(made.q, torch.nan) for _ in range(5)]
    expert.expert_attention(*made.arguments(outs[0]))
    assert distance(outs[0], made.exact()) < 4e-3
    for out in outs[1:]:
        ops.expert_attention(*made.arguments(out))
        assert torch.equal(outs[0], out)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [16, 32])
def test_float16_is_left_to_triton(heads: int) -> None:
    needs_hopper()
    made = case(6, heads, 64, 700, dtype=torch.float16)
    assert made.kernel() is triton_expert.expert_attention
    out = torch.full_like(made.q, torch.nan)
    ops.expert_attention(*made.arguments(out))
    assert distance(out, made.exact()) < 1e-3


def test_what_it_is_chosen_for(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = {"candidates": 2, "heads": 16, "waypoints": 64, "prefix": 9, "device": "cpu"}

    def kernel(**other: object) -> object:
        return case(**(usual | other)).kernel()

    elsewhere = triton_expert.expert_attention
    assert kernel() is elsewhere
    monkeypatch.setattr(expert, "on_hopper", lambda *matrices: all(m.dtype == torch.bfloat16 for m in matrices))
    chosen = kernel()
    assert chosen is not elsewhere
    assert kernel(heads=32) is kernel(waypoints=128) is kernel(splits=3) is chosen
    for other in ({"dtype": torch.float16}, {"dim": 64}, {"waypoints": 72, "splits": 1}, {"candidates": 1}):
        assert kernel(**other) is elsewhere, other
    made = case(2, 16, 64, 9, device="cpu")
    wide = ExpertConfiguration(2, half_parts=False, specialized=True)
    made.scratch = ExpertScratch.allocate(2, 64, 16, KV_HEADS, DIM, "cpu", wide)
    assert made.kernel() is elsewhere


@pytest.mark.parametrize("failure", [CompilerError("NVRTC: no libnvrtc"), DriverError("cuModuleLoadData: no")])
def test_triton_takes_over_where_it_is_not_available(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[tuple[object, ...]] = []
    done: list[tuple[object, ...]] = []

    def fails(*arguments: object) -> None:
        tried.append(arguments)
        raise failure

    monkeypatch.setattr(expert, "on_hopper", lambda *_: True)
    monkeypatch.setattr(choice, "_HOPPER", Chosen("expert attention", fails))
    monkeypatch.setattr(triton_expert, "expert_attention", lambda *arguments: done.append(arguments))
    made = case(2, 16, 64, 9, device="cpu")
    arguments = made.arguments(torch.empty_like(made.q))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            made.kernel()(*arguments)
    assert len(tried) == 1
    assert len(done) == 3
    for given in tried + done:
        assert [id(argument) for argument in given[-3:]] == [id(argument) for argument in arguments[-3:]]
    (record,) = caplog.records
    assert record.getMessage() == f"expert attention: without the kernel for Hopper: {failure}"


def test_the_environment_can_do_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(expert, "on_hopper", lambda *_: True)
    monkeypatch.setattr(choice, "_HOPPER", Chosen("expert attention", lambda *_: pytest.fail("it ran")))
    monkeypatch.setattr(triton_expert, "expert_attention", lambda *_: done.append(1))
    monkeypatch.setenv("ALPAMAYO_RT_HOPPER", "off")
    made = case(2, 16, 64, 9, device="cpu")
    made.kernel()(*made.arguments(torch.empty_like(made.q)))
    assert done == [1]


def test_what_a_block_needs_fits() -> None:
    assert expert._SHARED_BYTES <= 227 * 1024
    assert struct.calcsize(expert._WORK) == 7 * 4

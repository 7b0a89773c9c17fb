# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch

from alpamayo_rt.training.muon import StackedMuon

SHAPES = [(8, 8), (16, 8), (8, 16), (8, 8), (16, 8)]


def test_takes_the_steps_of_the_library():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon to compare with")
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in SHAPES]
    mine = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    a = StackedMuon(mine, lr=0.1)
    b = torch.optim.Muon(theirs, lr=0.1, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original")
    for _ in range(4):
        for x, y in zip(mine, theirs, strict=True):
            x.grad = torch.randn(x.shape)
            y.grad = x.grad.clone()
        a.step()
        b.step()
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=0.02, rtol=0.02)  # both orthogonalize in bfloat16
        assert float((x - y).detach().norm() / x.detach().norm()) < 0.01


def test_goes_on_from_its_state():
    torch.manual_seed(0)
    one = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    a = StackedMuon(one, lr=0.1)
    for p in one:
        p.grad = torch.randn(p.shape)
    a.step()
    two = [torch.nn.Parameter(p.detach().clone()) for p in one]
    b = StackedMuon(two, lr=0.1)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for p, q in zip(one, two, strict=True):
        p.grad = torch.randn(p.shape)
        q.grad = p.grad.clone()
    a.step()
    b.step()
    for p, q in zip(one, two, strict=True):
        assert torch.equal(p, q)

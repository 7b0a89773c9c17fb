# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import torch
from situations import SHIPPED
from torch import nn

from alpamayo_rt.model.embedding import embedding


def test_drawn_as_torch_draws_it() -> None:
    ours, theirs = [], []
    for made, make in ((ours, embedding), (theirs, nn.Embedding)):
        torch.manual_seed(3)
        made += [make(5, 4), nn.Linear(4, 2)]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.weight, other.weight)
        assert one.weight.requires_grad


def test_a_model_is_loaded_without_the_compiler() -> None:
    # In a process of its own: other tests export models, which needs it.
    code = (
        "import sys; from alpamayo_rt import load;"
        f"load({str(SHIPPED / 'model' / 'checkpoint')!r}, 'eager', 'fp32', 'cpu');"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

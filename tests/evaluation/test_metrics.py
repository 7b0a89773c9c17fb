# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from alpamayo_rt.evaluation.metrics import ade, fde, min_ade, min_fde


def _naive(candidates, truth):
    out = []
    for candidate in candidates:
        errors = [math.dist(a[:2], b[:2]) for a, b in zip(candidate, truth, strict=True)]
        out.append((sum(errors) / len(errors), errors[-1]))
    return out


def test_as_computed_by_hand():
    rng = np.random.default_rng(0)
    candidates, truth = rng.normal(size=(6, 64, 3)) * 10, rng.normal(size=(64, 3)) * 10
    naive = _naive(candidates.tolist(), truth.tolist())
    np.testing.assert_allclose(ade(candidates, truth), [a for a, _ in naive], rtol=1e-12)
    np.testing.assert_allclose(fde(candidates, truth), [f for _, f in naive], rtol=1e-12)
    assert min_ade(candidates, truth) == pytest.approx(min(a for a, _ in naive))
    assert min_fde(candidates, truth) == pytest.approx(min(f for _, f in naive))
    assert min_ade(candidates, truth, first=1) == pytest.approx(naive[0][0])
    assert min_fde(candidates, truth, first=2) == pytest.approx(min(f for _, f in naive[:2]))


def test_height_is_not_looked_at_and_tensors_will_do():
    candidates = torch.zeros(2, 4, 3)
    candidates[..., 2] = 5.0
    assert min_ade(candidates, torch.zeros(4, 2)) == 0.0


@pytest.mark.parametrize("shape", [(5, 2), (1, 2), (64,)])
def test_other_lengths_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        ade(np.zeros((6, 64, 2)), np.zeros(shape))

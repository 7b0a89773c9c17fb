# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from itertools import islice

from alpamayo_rt.training.drawing import again


def test_every_batch_comes_as_often_as_asked():
    shown = list(islice(again(iter(range(1000)), uses=3, pool=10, seed=0), 900))
    counts = Counter(shown)
    assert max(counts.values()) == 3
    # All but those that still wait have come three times.
    assert sum(n < 3 for n in counts.values()) <= 12
    assert shown[:10] == list(range(10))


def test_one_use_passes_batches_through():
    assert list(again(iter(range(5)), uses=1, pool=10, seed=0)) == [0, 1, 2, 3, 4]

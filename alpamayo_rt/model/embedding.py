# SPDX-License-Identifier: Apache-2.0
"""A table of embeddings that costs nothing to make where it has no data yet."""

from __future__ import annotations

import torch
from torch import nn


def embedding(rows: int, width: int) -> nn.Embedding:
    """`nn.Embedding`, drawn as it draws, except on the `meta` device.

    There is nothing to draw there, and asking for normal numbers on it imports PyTorch's compiler: seconds of
    every process that loads a model.
    """
    table = torch.empty(rows, width)
    if not table.is_meta:
        nn.init.normal_(table)
    return nn.Embedding.from_pretrained(table, freeze=False)

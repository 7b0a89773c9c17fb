# SPDX-License-Identifier: Apache-2.0
"""The floating types that a model can run in, by the names that users write."""

from __future__ import annotations

import torch

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

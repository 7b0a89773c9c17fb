# SPDX-License-Identifier: Apache-2.0
"""All parts of a checkpoint in one module, so that its tensors have one place each."""

from __future__ import annotations

import torch
from torch import nn

from alpamayo_rt.config import ActionSpaceConfig, ModelConfig
from alpamayo_rt.model.expert import Expert
from alpamayo_rt.model.language import LanguageModel
from alpamayo_rt.model.vision import VisionTower


class ActionStatistics(nn.Module):
    """Mean and standard deviation of acceleration (m/s²) and curvature (1/m), float32 scalars."""

    accel_mean: torch.Tensor
    accel_std: torch.Tensor
    curvature_mean: torch.Tensor
    curvature_std: torch.Tensor

    def __init__(self, c: ActionSpaceConfig):
        super().__init__()
        for name in ("accel_mean", "accel_std", "curvature_mean", "curvature_std"):
            self.register_buffer(name, torch.tensor(getattr(c, name), dtype=torch.float32))


class Network(nn.Module):
    """Vision tower, language model, expert and action statistics."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.vision = VisionTower(c.vision)
        self.language = LanguageModel(c.language)
        self.expert = Expert(c.expert, c.action_in)
        self.action_space = ActionStatistics(c.action_space)

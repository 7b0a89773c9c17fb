# SPDX-License-Identifier: Apache-2.0
"""A session that runs the exported modules in torch: the runner's double where no TensorRT can run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch

from alpamayo_rt.action.flow_matching import flow_times
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.bindings import FUSED, SHARED, SHARED_LOOP, expert_bindings
from alpamayo_rt.export.expert import FusedExpert, SharedExpert
from alpamayo_rt.model.network import Network


class TorchExpert:
    """See `Session`. It insists on what TensorRT insists on, and keeps what it was given.

    Args:
        network: its expert is run.
        config: of the model.
        contract: fused, shared or shared-loop.
        steps: of shared-loop.
    """

    path = Path("torch.engine")

    def __init__(self, network: Network, config: ModelConfig, contract: str, steps: int = 10):
        weight = network.expert.action_out_proj.weight
        self.inputs, self.outputs = expert_bindings(config, contract, weight.dtype)
        self.metadata = {"part": "expert", "contract": contract, "steps": str(steps)}
        self.device, self.contract, self.steps = weight.device, contract, steps
        kind = FusedExpert if contract == FUSED else SharedExpert
        self.module = kind(network.expert, config.action_space.n_waypoints).to(self.device)
        self.fed: list[dict[str, torch.Tensor]] = []

    def run(
        self, feeds: Mapping[str, torch.Tensor], out: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        self._check(feeds)
        self.fed.append(dict(feeds))
        names = [binding.name for binding in self.outputs]
        results = dict(zip(names, self._compute(feeds), strict=True))
        for name, tensor in (out or {}).items():
            # An engine writes while it reads: no output may lie where an input is.
            assert tensor.data_ptr() not in {t.data_ptr() for t in feeds.values()}
            results[name] = tensor.copy_(results[name])
        return results

    def _check(self, feeds: Mapping[str, torch.Tensor]) -> None:
        assert feeds.keys() == {binding.name for binding in self.inputs}
        sizes: dict[str, int] = {}
        for binding in self.inputs:
            tensor = feeds[binding.name]
            assert tensor.dtype == binding.dtype, binding
            assert tensor.is_contiguous(), binding
            assert tensor.data_ptr() % (256 if tensor.is_cuda else 4) == 0, binding
            assert len(tensor.shape) == len(binding.shape), binding
            for size, wanted in zip(tensor.shape, binding.shape, strict=True):
                if isinstance(wanted, str) and "+" in wanted:
                    name, plus = wanted.split(" + ")
                    assert size == sizes.setdefault(name, size - int(plus)) + int(plus), binding
                else:
                    assert size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted), (
                        binding
                    )

    def _compute(self, feeds: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        ordered = {b.name: feeds[b.name] for b in self.inputs}
        if self.contract == FUSED:
            return (self.module(**ordered),)
        if self.contract == SHARED:
            return self.module(**ordered)
        assert self.contract == SHARED_LOOP
        x, times = ordered.pop("noisy_action"), flow_times(self.steps, self.device)
        for t, later in pairwise(times):
            _, x = self.module(noisy_action=x, timestep=t[None], dt=(later - t)[None], **ordered)
        return (x,)

# SPDX-License-Identifier: Apache-2.0
"""The expert over one or two caches (guidance), and all Euler steps as one piece of work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from alpamayo_rt.action.flow_matching import flow_times, guided
from alpamayo_rt.engine.graphs.many import Places, layer_of_many
from alpamayo_rt.engine.graphs.segments import Segments
from alpamayo_rt.engine.graphs.staging import Staging
from alpamayo_rt.engine.graphs.weights import LayerWeights
from alpamayo_rt.kernels.attention.operations import expert_attention
from alpamayo_rt.kernels.attention.scratch import ExpertScratch, expert_configuration
from alpamayo_rt.kernels.layers import action as ops
from alpamayo_rt.kernels.layers.vision import add_layer_norm
from alpamayo_rt.model.decoder import RMSNorm
from alpamayo_rt.model.expert import Expert
from alpamayo_rt.model.rotary import inverse_frequencies


class FlowRun:
    """Buffers and work of K candidates."""

    def __init__(self, expert: Expert, layers: list[LayerWeights], candidates: int, waypoints: int, steps: int):
        c, like = expert.config, expert.action_out_proj.weight
        self.expert, self.layers, self.k, self.w = expert, layers, candidates, waypoints
        n = candidates * waypoints
        self.x = torch.zeros(candidates, waypoints, 2, device=like.device)
        self.weight = torch.ones((), device=like.device)
        self.ahead = torch.arange(waypoints, device=like.device)
        self.frequencies = inverse_frequencies(c.head_dim, c.rope_theta, like.device)
        self._times = flow_times(steps, like.device)
        times = flow_times(steps, torch.device("cpu"))
        self._widths = (times[1:] - times[:-1]).tolist()
        projection = expert.action_in_proj
        encoders = (*projection.sinus, projection.timestep_fourier_encoder)
        self._freqs = torch.cat([encoder.freqs for encoder in encoders])
        self._features = like.new_empty(n, 6 * self._freqs.shape[1])
        self._own = like.new_zeros(2, n, c.num_kv_heads, c.head_dim)
        self._slots = torch.arange(n, device=like.device)
        self._mixed = like.new_empty(candidates, waypoints, c.num_heads, c.head_dim)
        sizes = (candidates, waypoints, c.num_heads, c.num_kv_heads)
        division = expert_configuration(*sizes, half_parts=like.dtype != torch.float32)
        self._scratch = ExpertScratch.allocate(*sizes, c.head_dim, like.device, division)

    def velocity(self, x: torch.Tensor, time: torch.Tensor, segments: Segments) -> torch.Tensor:
        """(K, W, 2) float32, () float32 → (K, W, 2) float32."""
        out = torch.empty_like(x)
        self._move(x, time, segments, out)
        return out

    def _move(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        segments: Segments,
        out: torch.Tensor,
        width: float | None = None,
    ) -> None:
        """The velocity at x (K, W, 2) into `out`; with a width, so much of it onto `out`, which may be x."""
        expert, c = self.expert, self.expert.config
        stream, delta = self._tokens(x.view(-1, 2), time), None
        places = Places(segments.cos, segments.sin, self._slots)
        keys, values = self._own.transpose(1, 2)

        def attend(layer: int, q: torch.Tensor) -> torch.Tensor:
            own_keys, own_values = self._own.unflatten(1, (self.k, self.w))
            expert_attention(
                q.unflatten(0, (self.k, self.w)), segments.keys[layer], segments.values[layer],
                segments.prefix_length, segments.tail_start, segments.tail_room, segments.tail_sequence,
                segments.tail_length, own_keys, own_values, c.head_dim**-0.5, self._mixed, self._scratch,
            )  # fmt: skip
            return self._mixed.view(len(q), -1)

        for i, weights in enumerate(self.layers):
            delta = layer_of_many(stream, delta, i, weights, c, places, keys, values, attend)
        norm, last = expert.decoder.norm.weight, expert.action_out_proj
        ops.velocity(stream, delta, norm, c.rms_norm_eps, last.weight, last.bias, out.view(-1, 2), width)

    def _tokens(self, actions: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        projection = self.expert.action_in_proj
        ops.action_features(actions, time, self._freqs, self._features)
        first, *rest = projection.encoder.trunk
        h = first(self._features)
        norms = [module for module in rest if not isinstance(module, nn.SiLU)]
        for norm, linear in zip(norms[::2], norms[1::2], strict=True):
            assert isinstance(norm, RMSNorm)
            opened = torch.empty_like(h)
            ops.silu_rms_norm(h, norm.weight, norm.eps, opened)
            h = linear(opened)
        out = torch.empty_like(h)
        add_layer_norm(h, None, projection.norm.weight, projection.norm.bias, projection.norm.eps, out)
        return out

    def integrate(self, segments: Segments, unguided: Segments | None) -> None:
        """`x` from noise to actions, in place."""
        for time, width in zip(self._times, self._widths, strict=False):
            if unguided is None:
                self._move(self.x, time, segments, self.x, width)
                continue
            v = self.velocity(self.x, time, segments)
            self.x.add_(guided(self.velocity(self.x, time, unguided), v, self.weight), alpha=width)


class Flow:
    """All steps over fixed segments, and what a request says about them."""

    def __init__(self, run: FlowRun, segments: Segments, unguided: Segments | None = None):
        self.run, self.segments, self.unguided = run, segments, unguided
        self._staging = Staging(
            run.x.device, noise=(tuple(run.x.shape), torch.float32), reads=((run.k,), torch.int64)
        )

    def __call__(self) -> None:
        """Run all steps."""
        self.run.integrate(self.segments, self.unguided)

    def begin(self, noise: torch.Tensor, reads: Sequence[int]) -> None:
        """Take noise (K, W, 2), on the host or the device, and the row that each candidate reads.

        Nobody waits; the noise stays where no work before the flow touches it.
        """
        here, there = self._staging.here(), self._staging.there
        here["reads"].copy_(torch.tensor(list(reads)))
        if not noise.is_cuda:
            here["noise"].copy_(noise)
        self._staging.send()
        self.segments.tail_sequence.copy_(there["reads"])
        self.run.x.copy_(noise if noise.is_cuda else there["noise"])

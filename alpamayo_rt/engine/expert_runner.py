# SPDX-License-Identifier: Apache-2.0
"""Runs an expert session over all Euler steps: fixed buffers, nothing read back, a CUDA graph a shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from alpamayo_rt.action.flow_matching import flow_times, guided
from alpamayo_rt.engine.bindings import FUSED, SHARED, SHARED_LOOP
from alpamayo_rt.engine.expert_inputs import Arena, ExpertInputs, Limit
from alpamayo_rt.engine.hand_off import HandOff
from alpamayo_rt.engine.session import Session
from alpamayo_rt.errors import EngineError, InputError
from alpamayo_rt.kernels.contract.operations import euler_update, fill_timestep

_GRAPHS_KEPT = 8
_ALIGNED = 64  # float32 values: TensorRT wants every binding to begin at a multiple of 256 bytes

Feeds = dict[str, torch.Tensor]


class _Flow(NamedTuple):
    """One flow over fixed buffers.

    Attributes:
        branches: constant inputs, without guidance one, else those without and with navigation.
        x: (K, W, 2) the state, and the result.
        other: (K, W, 2), where `shared` leaves its next state.
        velocities: (K, W, 2) a branch.
        times: (steps + 1, 1) flow times, and dt: (steps, 1) their differences, each row aligned.
        dt: see times.
        weight: () of the guidance.
        timestep: (K, 1, 1), as `fused` takes the time.
    """

    branches: list[Feeds]
    x: torch.Tensor
    other: torch.Tensor
    velocities: list[torch.Tensor]
    times: torch.Tensor
    dt: torch.Tensor
    weight: torch.Tensor
    timestep: torch.Tensor


class ExpertRunner:
    """The expert behind a session.

    Args:
        session: an expert's, of any contract.
        contract: fused, shared or shared-loop.
        limits: the sizes that the session takes, by dimension; a missing one has no limit.
        capture: launch the steps as one CUDA graph; where the session does not allow it, `not_captured` says
            why and they are launched one by one.
    """

    def __init__(
        self, session: Session, contract: str, limits: Mapping[str, Limit] | None = None, capture: bool = False
    ):
        self.session, self.contract, self.capture = session, contract, capture
        self.not_captured = ""
        self._arena = Arena(session.device)
        self._inputs = [
            ExpertInputs(session, contract, limits or {}, self._arena, branch)
            for branch in ("guided", "unguided")
        ]
        self._graphs: OrderedDict[tuple[object, ...], Callable[[], None]] = OrderedDict()

    @torch.inference_mode()
    def denoise(
        self,
        noise: torch.Tensor,
        steps: int,
        hand_off: HandOff,
        unguided: HandOff | None = None,
        guidance_weight: float = 1.0,
    ) -> torch.Tensor:
        """See `Engine.denoise`.

        Raises:
            InputError: the request exceeds what the session was built for, or asks for what it cannot do.
        """
        if self.contract == SHARED_LOOP:
            return self._whole_flow(noise, steps, hand_off, unguided)
        flow = self._prepare(noise, steps, hand_off, unguided, guidance_weight)
        self._launch(flow)
        return flow.x.clone()

    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """See `Engine.velocity_field`."""
        if self.contract == SHARED_LOOP:
            raise InputError(
                f"request: {self.session.path} runs all steps inside and gives no single velocity, "
                f"expected an expert of contract {FUSED} or {SHARED}"
            )

        @torch.inference_mode()
        def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            # Filled anew each time: fields over several hand-offs may take turns.
            flow = self._prepare(x, 1, hand_off, None, 1.0)
            flow.times[0].copy_(time)
            self._run(flow, 0, flow.branches[0], flow.velocities[0])
            return flow.velocities[0].clone()

        return velocity

    def _prepare(
        self, noise: torch.Tensor, steps: int, hand_off: HandOff, unguided: HandOff | None, weight: float
    ) -> _Flow:
        hand_offs = [hand_off] if unguided is None else [hand_off, unguided]
        shape = tuple(noise.shape)
        branches = [i.fill(h) for i, h in zip(self._inputs, hand_offs, strict=False)]
        take = self._arena.take
        flow = _Flow(
            branches,
            take("x", shape, torch.float32),
            take("other", shape, torch.float32),
            [take(f"velocity.{i}", shape, torch.float32) for i in range(len(branches))],
            take("times", (steps + 1, _ALIGNED), torch.float32)[:, :1],
            take("dt", (steps, _ALIGNED), torch.float32)[:, :1],
            take("weight", (1,), torch.float32)[0],
            take("timestep", (len(noise), 1, 1), torch.float32),
        )
        times = flow_times(steps, torch.device("cpu"))
        flow.x.copy_(noise)
        flow.times.copy_(times[:, None])
        flow.dt.copy_((times[1:] - times[:-1])[:, None])
        flow.weight.fill_(weight)
        return flow

    def _launch(self, flow: _Flow) -> None:
        if not self.capture:
            self._steps(flow)
            return
        start = flow.x.clone()
        try:
            self._replay(flow)
        except (RuntimeError, EngineError) as error:
            # Not every engine can be captured; launched one by one the steps give the same.
            self.capture, self.not_captured = False, str(error)
            flow.x.copy_(start)
            self._steps(flow)

    def _replay(self, flow: _Flow) -> None:
        # A graph holds addresses and shapes, so these are what it is kept under.
        tensors = [flow.x, flow.times, *(t for feeds in flow.branches for t in feeds.values())]
        key = (self._arena.version, *((t.data_ptr(), *t.shape) for t in tensors))
        if key not in self._graphs:
            self._graphs[key] = self._captured(flow)
            if len(self._graphs) > _GRAPHS_KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        self._graphs[key]()

    def _captured(self, flow: _Flow) -> Callable[[], None]:
        start = flow.x.clone()
        # What a session or a kernel sets up at its first call must not be captured.
        side = torch.cuda.Stream(flow.x.device)
        side.wait_stream(torch.cuda.current_stream(flow.x.device))
        with torch.cuda.stream(side):
            self._steps(flow)
        torch.cuda.current_stream(flow.x.device).wait_stream(side)
        flow.x.copy_(start)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._steps(flow)
        return graph.replay

    def _steps(self, flow: _Flow) -> None:
        guiding = len(flow.branches) == 2
        for step in range(len(flow.dt)):
            for feeds, velocity in zip(flow.branches, flow.velocities, strict=True):
                self._run(flow, step, feeds, velocity)
            if guiding:
                with_navigation, without = flow.velocities
                with_navigation.copy_(guided(without, with_navigation, flow.weight))
            if guiding or self.contract == FUSED:
                euler_update(flow.x, flow.velocities[0], flow.dt[step, 0])
            else:
                flow.x.copy_(flow.other)

    def _run(self, flow: _Flow, step: int, feeds: Feeds, velocity: torch.Tensor) -> None:
        if self.contract == FUSED:
            fill_timestep(flow.times[step, 0], flow.timestep)
            inputs = {"noisy_action": flow.x, "timestep": flow.timestep, **feeds}
            self.session.run(inputs, {"pred_velocity": velocity})
        else:
            inputs = {"noisy_action": flow.x, "timestep": flow.times[step], "dt": flow.dt[step], **feeds}
            self.session.run(inputs, {"pred_velocity": velocity, "next_action": flow.other})

    def _whole_flow(
        self, noise: torch.Tensor, steps: int, hand_off: HandOff, unguided: HandOff | None
    ) -> torch.Tensor:
        if unguided is not None:
            raise InputError(
                f"guidance_weight: {self.session.path} runs all steps inside ({SHARED_LOOP}) without it, "
                f"expected an expert of contract {SHARED} or {FUSED}"
            )
        built = self.session.metadata.get("steps", "")
        if built != str(steps):
            raise InputError(
                f"num_diffusion_steps: {steps}, {self.session.path} was exported for {built or 'other'} steps"
            )
        x = self._arena.take("x", tuple(noise.shape), torch.float32)
        x.copy_(noise)
        out = self._arena.take("other", tuple(noise.shape), torch.float32)
        self.session.run({"noisy_action": x, **self._inputs[0].fill(hand_off)}, {"action": out})
        return out.clone()

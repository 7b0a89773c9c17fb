# SPDX-License-Identifier: Apache-2.0
"""The comparisons of a driving case, from vision to trajectory, each fed and chained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpamayo_rt.action.flow_matching import flow_times, guided, integrate
from alpamayo_rt.engine.hand_off import HandOff, hand_off, hand_off_from_arrays, reasoning_length
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling
from alpamayo_rt.inference import Model
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt, task_of
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.rows import Report


def check_driving(model: Model, case: Case, images: Images, prompt: Prompt, report: Report) -> None:
    """All comparisons of a case with a rollout; `images` and `prompt` are what our own front end made."""
    run = _Driving(model, case, prompt, report)
    run.check_recorded_tokens()
    recorded = case.images()
    run.check_vision(model.engine.encode_images(recorded), "fed")
    fed = run.check_language(recorded, run.recorded_features(), "fed")
    run.check_expert_fed(fed)
    features = model.engine.encode_images(images)
    run.check_vision(features, "chained")
    run.check_expert_chained(run.check_language(images, features, "chained"))


@dataclass
class _Branches:
    """Hand-offs of the branch with navigation and, under guidance, of the one without."""

    with_navigation: HandOff
    without: HandOff | None


class _Driving:
    """The parts of one driving case; a class so that the many recorded quantities need no long signatures."""

    def __init__(self, model: Model, case: Case, prompt: Prompt, report: Report):
        self.model, self.engine, self.case, self.prompt, self.report = (
            model,
            model.engine,
            case,
            prompt,
            report,
        )
        self.task = task_of(case.sample(), model.config.family)
        self.rule = model.stop_rule(self.task)
        self.sequences = case["sequences"]
        self.rows = len(self.sequences)
        self.tokens: list[list[int]] = self.sequences[:, len(prompt) :].tolist()
        self.waypoints = model.config.action_space.n_waypoints
        self.guided = "euler_v_unguided" in case
        # In lower precisions a close call may go the other way, so that only forced tokens can be compared.
        self.forced = not case.greedy or self.engine.precision != "fp32"

    def check_recorded_tokens(self) -> None:
        """What can be said of the recorded sequences without running the model."""
        length = len(self.prompt)
        self.report.equal(
            "sequences (prompt)", "fed", self.prompt.ids.expand(self.rows, -1), self.sequences[:, :length]
        )
        said = [t for row in self.tokens for t in row[: reasoning_length(row, self.rule.closing)]]
        self.report.add(
            "sequences (masked ids)",
            "fed",
            "occurring",
            float(sum(a <= t < b for t in said for a, b in self.rule.masked)),
            0.0,
        )
        if "rope_deltas" in self.case:
            recorded = self.case["rope_deltas"]
            self.report.equal("rope_deltas", "fed", torch.full_like(recorded, self.prompt.rope_delta), recorded)
        for row, text in zip(self.tokens, self.case.meta.get("cot", []), strict=False):
            if text:
                said_row = row[: reasoning_length(row, self.rule.closing)]
                self.report.equal("cot", "fed", self.model.text_of(said_row, self.task), text)

    # vision

    def recorded_features(self) -> VisionFeatures:
        """The recorded vision tower output, once: the reference tiles it over the batch."""
        count = len(self.prompt.image_slots)
        taps = len(self.model.config.vision.deepstack_layers)
        device, dtype = self.engine.device, self.engine.dtype
        return VisionFeatures(
            self.case["image_embeds"][:count].to(device, dtype),
            tuple(self.case[f"deepstack_{i}"][:count].to(device, dtype) for i in range(taps)),
        )

    def check_vision(self, ours: VisionFeatures, source: str) -> None:
        """Image tokens and DeepStack features, every tile of them."""
        names = ["image_embeds", *(f"deepstack_{i}" for i in range(len(ours.deepstack)))]
        for name, feature in zip(names, [ours.embeds, *ours.deepstack], strict=True):
            recorded = self.case[name]
            tiles = max(len(recorded) // len(feature), 1)
            self.report.relative(name, source, feature.repeat(tiles, 1), recorded, self.report.bounds.vision)

    # language model

    def check_language(self, images: Images, features: VisionFeatures, source: str) -> _Branches:
        """Prefill, rollout or forced tokens, cache, hand-off; and the cache without navigation."""
        case, engine = self.case, self.engine
        greedy = not self.forced
        room = (1 if greedy else self.rows) * max(
            case.limit, self.sequences.shape[1]
        ) + self.rows * self.waypoints
        cache, logits = engine.prefill(self.prompt, features, room)
        self.report.relative(
            "prefill_last_logits", source, logits.expand(self.rows, -1), case["prefill_last_logits"],
            self.report.bounds.logits,
        )  # fmt: skip
        if greedy:
            tokens, reads = [self._greedy_tokens(cache, logits, source)], [0] * self.rows
        else:
            tokens, reads = self.tokens, list(range(self.rows))
            if self.sequences.shape[1] - len(self.prompt) > 1:
                engine.append(cache, reads, [row[:-1] for row in tokens])
        handed = hand_off(cache, tokens, reads, self.rule.closing, self.waypoints)
        self._check_cache("kv", cache, reads, handed, source)
        self._check_hand_off("expert_", handed, source)
        without = None
        if self.guided or "unguided_kv_keys" in case:
            said = (
                [row[: reasoning_length(row, self.rule.closing)] for row in self.tokens] if greedy else tokens
            )
            prompt, without = self.model.unguided_hand_off(
                case.sample(), images, features, said[:1] if greedy else said, reads, (self.prompt, cache)
            )
            self._check_unguided(prompt, without, reads, source)
        return _Branches(handed, without if self.guided else None)

    def _greedy_tokens(self, cache: KvCache, logits: torch.Tensor, source: str) -> list[int]:
        limit = self.case.limit
        rollout = self.engine.reason(
            cache, logits, Sampling(0, 1, None, limit), self.rule, torch.zeros(1, limit)
        )
        ours = rollout.tokens[0]
        for row in self.tokens:
            end = reasoning_length(row, self.rule.closing)
            if self.rule.end in row[:end]:
                end = row.index(self.rule.end) + 1
            self.report.equal("sequences (greedy)", source, ours, row[:end])
        return ours

    def _check_cache(self, prefix: str, cache: KvCache, reads: list[int], handed: HandOff, source: str) -> None:
        """Keys and values per layer at the positions that the expert may attend to."""
        keys, values = self.case[f"{prefix}_keys"], self.case[f"{prefix}_values"]
        slots = [cache.sequence_slots(sequence) for sequence in reads]
        attended = [handed.attended[i, s].cpu() for i, s in enumerate(slots)]
        for name, ours, recorded in (
            (f"{prefix}_keys", cache.keys, keys),
            (f"{prefix}_values", cache.values, values),
        ):
            for layer in range(len(recorded)):
                mine, theirs = [], []
                for i, (row, seen) in enumerate(zip(slots, attended, strict=True)):
                    their = recorded[layer, min(i, recorded.shape[1] - 1)]
                    mine.append(ours[layer][:, row].cpu()[:, seen].float().flatten())
                    theirs.append(their[:, : len(seen)][:, seen[: their.shape[1]]].flatten())
                self.report.relative(
                    f"{name}[{layer}]", source, torch.cat(mine), torch.cat(theirs), self.report.bounds.cache
                )

    def _check_hand_off(self, prefix: str, handed: HandOff, source: str) -> None:
        recorded = self.case[f"{prefix}attended"]
        length = recorded.shape[1] - self.waypoints
        ours = torch.zeros_like(recorded)
        ours[:, length:] = True
        for i, sequence in enumerate(handed.sequences.tolist()):
            slots = handed.cache.sequence_slots(sequence)
            seen = handed.attended[i, slots].cpu()
            if bool(seen[length:].any()):
                ours[i] = ~recorded[i]  # attends to more than was recorded: every position counts as wrong
            else:
                ours[i, : min(length, len(seen))] = seen[:length]
        self.report.equal(f"{prefix}attended", source, ours, recorded)
        self.report.equal(
            f"{prefix}position_ids", source, handed.position_ids.cpu(), self.case[f"{prefix}position_ids"]
        )
        offset = f"{prefix.removesuffix('expert_')}offset"
        if offset in self.case:
            self.report.equal(offset, source, handed.offsets.cpu(), self.case[offset])

    def _check_unguided(self, prompt: Prompt, handed: HandOff, reads: list[int], source: str) -> None:
        """The branch without navigation, where it was recorded."""
        if "unguided_kv_keys" in self.case:
            self._check_cache("unguided_kv", handed.cache, reads, handed, source)
        if "unguided_expert_attended" in self.case:
            self._check_hand_off("unguided_expert_", handed, source)
        for name, ids in (("unguided_input_ids", prompt.text_ids), ("unguided_fused_input_ids", prompt.ids)):
            if name in self.case:
                self.report.equal(name, source, ids[None], self.case[name])
        if "unguided_rope_deltas" in self.case:
            recorded = self.case["unguided_rope_deltas"]
            self.report.equal(
                "unguided_rope_deltas", source, torch.full_like(recorded, prompt.rope_delta), recorded
            )

    # expert

    def _recorded_hand_off(self) -> HandOff:
        keys, values = (self.case[name].expand(-1, self.rows, -1, -1, -1) for name in ("kv_keys", "kv_values"))
        return hand_off_from_arrays(
            self.model.config.language, keys, values, self.case["expert_attended"],
            self.case["expert_position_ids"], range(self.rows), self.engine.device, self.engine.dtype,
        )  # fmt: skip

    def check_expert_fed(self, branches: _Branches) -> None:
        """Velocities at recorded states, updates from recorded velocities, path of the recorded action."""
        case, report = self.case, self.report
        states, times = case["euler_x"], case["euler_t"]
        steps = len(times)
        # The last of the flow times is 1, where nothing is evaluated any more.
        schedule = flow_times(steps, times.device)
        report.absolute("euler_t", "fed", schedule[:-1], times, 1e-6)
        start = case["noise"] * float(self.case.diffusion.get("temperature", 1))
        report.relative("noise", "fed", start, states[0], 1e-6)
        if self.engine.whole_flow:
            self._check_whole_flow(start, branches)
            return
        velocities = {"euler_v": self.engine.velocity_field(self._recorded_hand_off())}
        if branches.without is not None:
            velocities["euler_v_unguided"] = self.engine.velocity_field(branches.without)
        for name, velocity in velocities.items():
            for i in range(steps):
                ours = velocity(states[i].to(self.engine.device), times[i].to(self.engine.device))
                report.velocity(name, "fed", ours, case[name], i)
        recorded = case["euler_v"]
        if self.guided:
            recorded = guided(case["euler_v_unguided"], recorded, case.guidance_weight)
        for i in range(steps):
            after = states[i] + (schedule[i + 1] - schedule[i]) * recorded[i]
            name, theirs = (f"euler_x[{i + 1}]", states[i + 1]) if i + 1 < steps else ("action", case["action"])
            report.relative(name, "fed", after, theirs, report.bounds.action)
        self._check_trajectory(case["action"], "fed")

    def _check_whole_flow(self, start: torch.Tensor, branches: _Branches) -> None:
        """Of an expert that runs all steps inside only the actions can be compared."""
        case, report = self.case, self.report
        case.pass_over("euler_v", "euler_v_unguided", "euler_x")
        action = self.engine.denoise(
            start, len(case["euler_t"]), self._recorded_hand_off(), branches.without, case.guidance_weight
        ).cpu()
        report.relative("action", "fed", action, case["action"], report.bounds.action)
        self._check_trajectory(case["action"], "fed")

    def check_expert_chained(self, branches: _Branches) -> None:
        """The whole integration from the noise on our own cache."""
        case, report = self.case, self.report
        steps = len(case["euler_t"])
        start = case["noise"] * float(self.case.diffusion.get("temperature", 1))
        if not self.engine.whole_flow:
            self._check_steps(start, steps, branches)
        # The engine's own integration, which may be more than these steps, gives the actions.
        action = self.engine.denoise(
            start, steps, branches.with_navigation, branches.without, case.guidance_weight
        ).cpu()
        report.relative("action", "chained", action, case["action"], report.bounds.action)
        self._check_trajectory(action, "chained")

    def _check_steps(self, start: torch.Tensor, steps: int, branches: _Branches) -> None:
        """States and velocities of every step on our own cache."""
        case, report = self.case, self.report
        seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        velocity = self.engine.velocity_field(branches.with_navigation)
        without = None if branches.without is None else self.engine.velocity_field(branches.without)

        def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            v = velocity(x, t)
            u = None if without is None else without(x, t)
            seen.append((x, v, u))
            return v if u is None else guided(u, v, case.guidance_weight)

        integrate(start.to(self.engine.device), field, steps)
        for i, (x, v, u) in enumerate(seen):
            report.relative(f"euler_x[{i}]", "chained", x, case["euler_x"][i], report.bounds.action)
            report.velocity("euler_v", "chained", v, case["euler_v"], i)
            if u is not None:
                report.velocity("euler_v_unguided", "chained", u, case["euler_v_unguided"], i)

    def _check_trajectory(self, action: torch.Tensor, source: str) -> None:
        case, bound = self.case, self.report.bounds.trajectory
        history = case["ego_history_xyz"][0, 0], case["ego_history_rot"][0, 0]
        xyz, rot = self.model.unicycle.integrate(action, *history)
        self.report.relative("pred_xyz", source, xyz, case["pred_xyz"].flatten(0, 2), bound)
        self.report.relative("pred_rot", source, rot, case["pred_rot"].flatten(0, 2), bound)

# SPDX-License-Identifier: Apache-2.0
"""The stage protocol: what every engine can do, and what follows from it.

An engine implements the four stages that run the network. Rollout and integration are written here once over
these stages; an engine that can do better (a graph over all steps, say) overrides them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from alpamayo_rt.action.flow_matching import guided, integrate
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.hand_off import HandOff, hand_off
from alpamayo_rt.engine.kv_cache import KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule, choose
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

OnToken = Callable[[int, int], None]
"""(sequence, token)"""
Lap = Callable[[str], None]
"""Told the name of a stage when all of it has been launched."""
FINISHED, NO_TRAJECTORY_TOKEN, LIMIT = "finished", "no_trajectory_token", "limit"


@dataclass
class Rollout:
    """Tokens of each sequence (without the discarded one after the closing token), and why it ended."""

    tokens: list[list[int]]
    stop_reasons: list[str]


class Engine(ABC):
    """One way to run vision, language model and expert."""

    name: str
    precision: str

    @property
    def whole_flow(self) -> bool:
        """Whether the expert runs all its steps inside, so that there is no velocity to ask for."""
        return False

    @property
    def reuses_frames(self) -> bool:
        """Whether images whose `frame_ids` were seen before are not encoded again."""
        return False

    @property
    def patch_dtype(self) -> torch.dtype:
        """The type in which patches are best prepared; all floating types are taken."""
        return torch.float32

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype):
        self.config, self.device, self.dtype = config, device, dtype

    @abstractmethod
    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        """Patches → image tokens and DeepStack features.

        Args:
            images: all images of a request.
            frame_ids: one key an image; the same key means the same picture. Engines that keep features
                (`reuses_frames`) need not encode again what they have seen; others look at none of this.
        """

    def encode_for_prefill(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        """As `encode_images`, but the next images that are encoded may overwrite what this returns."""
        return self.encode_images(images, frame_ids)

    @abstractmethod
    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        """Run the prompt once.

        Args:
            prompt: token ids and positions.
            features: of its images.
            room: slots to set aside for what follows: rollouts and the expert's own tokens.

        Returns:
            The cache, and the logits (V,) float32 at the prompt's last position.
        """

    def prefill_from(
        self, shared: KvCache, length: int, prompt: Prompt, features: VisionFeatures, room: int
    ) -> tuple[KvCache, torch.Tensor]:
        """Run a prompt whose first tokens are in another prompt's cache already.

        An engine may read, copy or refer to these slots; here they are computed again. The other cache stays as
        it is, and may grow behind its prompt.

        Args:
            shared: a cache that `prefill` made, with whatever its sequences have written since.
            length: with how many equal tokens both prompts begin.
            prompt: the other arguments and what is returned are those of `prefill`.
            features: of its images, which both prompts have.
            room: slots to set aside.
        """
        return self.prefill(prompt, features, room)

    @abstractmethod
    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        """Run further tokens of some sequences.

        Args:
            cache: it grows by all tokens.
            sequences: R distinct sequence numbers.
            tokens: their next tokens, at least one each.
            unseen: a token whose keys none of these tokens attends to (they stay visible to the expert).

        Returns:
            Logits (R, V) float32 after each sequence's last token.
        """

    @abstractmethod
    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The flow's velocity for a hand-off: (x (K, W, 2), t ()) → (K, W, 2), float32."""

    def reason(
        self,
        cache: KvCache,
        logits: torch.Tensor,
        sampling: Sampling,
        rule: StopRule,
        uniforms: torch.Tensor,
        forced: torch.Tensor | None = None,
        on_token: OnToken | None = None,
    ) -> Rollout:
        """Let every sequence write until its rule ends it.

        The limit counts every sampled token, the one after the closing token too, as the reference counts.

        Args:
            cache: holds the prompt.
            logits: (V,) at its last position.
            sampling: temperature, top-p, top-k, limit.
            rule: masked ids and ends.
            uniforms: (sequences, limit) numbers that choose the tokens.
            forced: (sequences, limit) int64 on the CPU, ids that are taken whatever was chosen; -1: as chosen.
            on_token: is told each sequence and token as soon as it is known on the host.
        """
        rollout = Rollout([[] for _ in uniforms], [LIMIT] * len(uniforms))
        active = list(range(len(uniforms)))
        rows = logits.expand(len(active), -1)
        uniforms = uniforms.to(self.device)
        for step in range(sampling.max_generate_length):
            chosen = choose(rows, uniforms[active, step], sampling, rule.masked).tolist()
            if forced is not None:
                wanted = forced[active, step].tolist()
                chosen = [c if w < 0 else w for c, w in zip(chosen, wanted, strict=True)]
            for sequence, token in zip(active, chosen, strict=True):
                rollout.tokens[sequence].append(token)
                if on_token is not None:
                    on_token(sequence, token)
                if token == rule.end:
                    rollout.stop_reasons[sequence] = FINISHED if rule.closing is None else NO_TRAJECTORY_TOKEN
            going = [(s, t) for s, t in zip(active, chosen, strict=True) if t != rule.end]
            if not going or step + 1 == sampling.max_generate_length:
                break
            rows = self.append(cache, [s for s, _ in going], [[t] for _, t in going])
            keep = [i for i, (_, token) in enumerate(going) if token != rule.closing]
            for sequence, token in going:
                if token == rule.closing:
                    rollout.stop_reasons[sequence] = FINISHED
            if not keep:
                break
            active, rows = [going[i][0] for i in keep], rows[keep]
        return rollout

    def drive(
        self,
        cache: KvCache,
        logits: torch.Tensor,
        sampling: Sampling,
        rule: StopRule,
        uniforms: torch.Tensor,
        reads: Sequence[int],
        noise: torch.Tensor,
        steps: int,
        lap: Lap,
        forced: torch.Tensor | None = None,
        on_token: OnToken | None = None,
    ) -> tuple[Rollout, torch.Tensor]:
        """From the prompt's logits to actions without guidance: `reason`, hand-off, `denoise`.

        One call, so that an engine can launch the flow before the tokens are back on the host.

        Args:
            cache: see `reason`, as are logits, sampling, rule, uniforms, forced and on_token.
            logits: see cache.
            sampling: see cache.
            rule: see cache.
            uniforms: see cache.
            reads: the sequence of each of the K candidates.
            noise: (K, W, 2) float32.
            steps: of the flow.
            lap: is told `decode` and `expert`.
            forced: see cache.
            on_token: see cache.

        Returns:
            The rollout, and normalized actions (K, W, 2) float32 on the engine's device.
        """
        rollout = self.reason(cache, logits, sampling, rule, uniforms, forced, on_token)
        lap("decode")
        handed = hand_off(cache, rollout.tokens, reads, rule.closing, noise.shape[1])
        action = self.denoise(noise, steps, handed)
        lap("expert")
        return rollout, action

    def denoise(
        self,
        noise: torch.Tensor,
        steps: int,
        hand_off: HandOff,
        unguided: HandOff | None = None,
        guidance_weight: float = 1.0,
    ) -> torch.Tensor:
        """Noise (K, W, 2) → normalized actions (K, W, 2) float32; with `unguided`, under guidance."""
        velocity = self.velocity_field(hand_off)
        if unguided is None:
            return integrate(noise.to(self.device), velocity, steps)
        without = self.velocity_field(unguided)
        return integrate(
            noise.to(self.device), lambda x, t: guided(without(x, t), velocity(x, t), guidance_weight), steps
        )

    def synchronize(self) -> None:
        """Wait for the device, so that a clock read on the host means something."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

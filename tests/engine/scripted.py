# SPDX-License-Identifier: Apache-2.0
"""An engine without a network: what each sequence will say is written down beforehand."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from alpamayo_rt.config import TextConfig
from alpamayo_rt.engine.base import Engine, Rollout
from alpamayo_rt.engine.hand_off import HandOff, hand_off
from alpamayo_rt.engine.kv_cache import PROMPT, KvCache
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt

VOCABULARY, CLOSING, END = 20, 12, 2
DRIVING = StopRule(((14, 20),), CLOSING, END)
QUESTION = StopRule((), None, END)
PROMPT_LENGTH, ROPE_DELTA, WAYPOINTS = 5, -2, 3
_TEXT = TextConfig(1, 4, 1, 1, 4, 4, 1e-6, 1e4, (1, 1, 0), VOCABULARY, END)


def one_hot(tokens: Sequence[int]) -> torch.Tensor:
    """Logits that leave one choice each."""
    return torch.full((len(tokens), VOCABULARY), -100.0).scatter(1, torch.tensor(tokens)[:, None], 100.0)


class ScriptedEngine(Engine):
    """Says `scripts[sequence]` token by token; `appended` keeps what was run, call by call."""

    name, precision = "scripted", "fp32"

    def __init__(self, scripts: list[list[int]]):
        self.scripts = scripts
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.appended: list[list[tuple[int, int]]] = []
        self.cache = KvCache.allocate(_TEXT, 200, PROMPT_LENGTH, ROPE_DELTA, self.device, self.dtype)
        self.cache.claim(torch.full((PROMPT_LENGTH,), PROMPT), torch.arange(PROMPT_LENGTH))

    def append(
        self,
        cache: KvCache,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        unseen: int | None = None,
    ) -> torch.Tensor:
        following = []
        self.appended.append([(s, t) for s, (t,) in zip(sequences, tokens, strict=True)])
        for sequence, (token,) in zip(sequences, tokens, strict=True):
            order = len(cache.sequence_slots(sequence))
            cache.claim(torch.tensor([sequence]), torch.tensor([order]))
            said = order - PROMPT_LENGTH
            assert self.scripts[sequence][said] == token
            following.append((self.scripts[sequence] + [0])[said + 1])
        return one_hot(following)

    def roll_out(self, rule: StopRule, limit: int) -> Rollout:
        """Run the rollout; the first tokens of all scripts are the same or are drawn in turn."""
        firsts = sorted({script[0] for script in self.scripts})
        logits = one_hot([firsts[0]])[0]
        logits[firsts] = 100.0
        draws = torch.full((len(self.scripts), limit), 0.5, dtype=torch.float64)
        draws[:, 0] = torch.tensor([(firsts.index(s[0]) + 0.5) / len(firsts) for s in self.scripts])
        return self.reason(self.cache, logits, Sampling(1.0, 1.0, None, limit), rule, draws)

    def hand_off(self, rollout: Rollout, reads: Sequence[int]) -> HandOff:
        """The hand-off after `roll_out`."""
        return hand_off(self.cache, rollout.tokens, reads, CLOSING, WAYPOINTS)

    def encode_images(self, images: Images, frame_ids: Sequence[Hashable] | None = None) -> VisionFeatures:
        raise NotImplementedError

    def prefill(self, prompt: Prompt, features: VisionFeatures, room: int) -> tuple[KvCache, torch.Tensor]:
        raise NotImplementedError

    def velocity_field(self, hand_off: HandOff) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        raise NotImplementedError

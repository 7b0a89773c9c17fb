# SPDX-License-Identifier: Apache-2.0
"""What is timed: how many candidates, reasonings, tokens, and how many of the images are new."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from alpamayo_rt.action.flow_matching import draw_noise
from alpamayo_rt.bench import released
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.sampling import Sampling, StopRule, draw_uniforms
from alpamayo_rt.errors import InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.prompt.history import history_bins
from alpamayo_rt.prompt.positions import mrope_positions
from alpamayo_rt.prompt.prompt import Images, Prompt, build_prompt, prepare_images
from alpamayo_rt.sample.sample import HISTORY_POSES, STEP_SECONDS, Sample

FRAMES, HEIGHT, WIDTH = 4, 1080, 1920
LIMIT = 256
"""Tokens that a request may take: so many slots are set aside, as for a real one."""
SAMPLING = Sampling(0.6, 0.98, None, LIMIT)
_SPEED = 10.0


@dataclass(frozen=True)
class Workload:
    """One row of a record.

    Attributes:
        name: as on the command line.
        candidates: trajectories.
        multi_seq: whether each has a reasoning of its own.
        tokens: sampled by each sequence, the one after the closing token included, which is thrown away. So the
            prefill gives the first and `passes` decode passes run.
        cached: whether all but the newest image of each camera were in the window before.
        steps: of the flow.
    """

    name: str
    candidates: int
    multi_seq: bool = False
    tokens: int = 32
    cached: bool = False
    steps: int = 10

    @property
    def sequences(self) -> int:
        """Reasonings."""
        return self.candidates if self.multi_seq else 1

    @property
    def passes(self) -> int:
        """Decode passes: one for each token that enters the cache, the closing one included."""
        return self.tokens - 1


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W6", 6),
        Workload("W6m", 6, multi_seq=True),
        Workload("W1", 1),
        Workload("W6-18", 6, tokens=18),
        Workload("W6-cached", 6, cached=True),
        Workload("W1-cached", 1, cached=True),
    )
}


def choose_workloads(
    names: Iterable[str] | None,
    reuses_frames: bool,
    candidates: int | None = None,
    tokens: int | None = None,
    steps: int | None = None,
) -> list[Workload]:
    """The workloads of some names, changed as asked.

    Args:
        names: None: all that the engine can run as they are meant.
        reuses_frames: whether it keeps features of frames seen before.
        candidates: instead of a workload's own.
        tokens: likewise.
        steps: likewise.

    Raises:
        InputError: a name is unknown, or the engine cannot run it as it is meant.
    """
    chosen = []
    for name in WORKLOADS if names is None else names:
        if name not in WORKLOADS:
            raise InputError(f"workload: {name!r}, expected some of {', '.join(WORKLOADS)}")
        workload = WORKLOADS[name]
        if workload.cached and not reuses_frames:
            if names is None:
                continue
            raise InputError(f"workload: {name} needs an engine that keeps the features of frames seen before")
        changes = {"candidates": candidates, "tokens": tokens, "steps": steps}
        chosen.append(replace(workload, **{k: v for k, v in changes.items() if v is not None}))  # type: ignore[arg-type]
    return chosen


@dataclass(frozen=True)
class Request:
    """One request and all that its runs read; the same for every run and engine.

    Attributes:
        workload: what it belongs to.
        sample: raw frames on the host (pinned where the device is a GPU), history.
        prompt_of: makes the prompt of its images.
        images: its patches, on the device.
        prompt: of these.
        rule: what may not be said, and what ends it.
        uniforms: (sequences, LIMIT) for the sampling.
        forced: (sequences, LIMIT) int64: text of no meaning up to the closing token, −1 after it. Sampling,
            masking and the stop test run as ever; what they choose is replaced.
        noise: (K, W, 2) on the device.
    """

    workload: Workload
    sample: Sample
    prompt_of: Callable[[Images], Prompt]
    images: Images
    prompt: Prompt
    rule: StopRule
    uniforms: torch.Tensor
    forced: torch.Tensor
    noise: torch.Tensor

    def frame_ids(self, window: int) -> list[Hashable] | None:
        """Keys of the n-th window's images, of which all but the newest of each camera were in the last."""
        if not self.workload.cached:
            return None
        cameras = self.sample.camera_indices
        return [
            (camera, window + frame) for camera in cameras for frame in range(self.sample.frames_per_camera)
        ]

    def reads(self) -> list[int]:
        """The sequence of each candidate."""
        w = self.workload
        return list(range(w.candidates)) if w.multi_seq else [0] * w.candidates

    def room(self, config: ModelConfig) -> int:
        """Slots behind the prompt, as `Model.infer` sets them aside."""
        return self.workload.sequences * LIMIT + self.workload.candidates * config.action_space.n_waypoints

    def said(self) -> list[list[int]]:
        """What each sequence writes, up to and including the closing token."""
        return self.forced[:, : self.workload.passes].tolist()


def request_of(model: Model, workload: Workload, cameras: tuple[int, ...] | None = None) -> Request:
    """The workload as a checkpoint's own input: its tokenizer, its image sizes, its usual cameras or others."""
    config = model.config
    sample = _sample(cameras or config.family.tasks[0].cameras, model.engine.device)
    # Not `model.prompt_of`: a request outlives its engine, and must not keep the network in memory.
    tokenizer = model.tokenizer
    return _request(
        workload,
        sample,
        lambda images: build_prompt(sample, images, config, tokenizer),
        config,
        model.engine.device,
        model.stop_rule(config.family.tasks[0]),
    )


def released_request(config: ModelConfig, workload: Workload, device: torch.device) -> Request:
    """The workload at the released sizes, without a tokenizer: the layout's tokens, text of no meaning."""
    family, sizes = released.find_released(config.family.model_type)
    sample = _sample(sizes.cameras, device)
    rule = StopRule.of(family.tasks[0], config, released.special_id(family, "traj_future_start"))
    return _request(
        workload,
        sample,
        lambda images: _layout(sample, images, config, sizes.text_tokens),
        config,
        device,
        rule,
    )


def _request(
    workload: Workload,
    sample: Sample,
    prompt_of: Callable[[Images], Prompt],
    config: ModelConfig,
    device: torch.device,
    rule: StopRule,
) -> Request:
    if not 2 <= workload.tokens <= LIMIT:
        raise InputError(f"tokens: {workload.tokens}, expected a whole number from 2 to {LIMIT}")
    images = prepare_images(sample, config, device)
    assert rule.closing is not None
    forced = torch.full((workload.sequences, LIMIT), -1)
    forced[:, : workload.passes] = _text((workload.sequences, workload.passes), config, rule.end)
    forced[:, workload.passes - 1] = rule.closing
    return Request(
        workload,
        sample,
        prompt_of,
        images,
        prompt_of(images),
        rule,
        draw_uniforms(workload.sequences, LIMIT, 0),
        forced,
        draw_noise(workload.candidates, config.action_space.n_waypoints, 0).to(device),
    )


@lru_cache(maxsize=1)
def _sample(cameras: tuple[int, ...], device: torch.device) -> Sample:
    # Kept, since all workloads of a run show the same: drawing and pinning 100 MB takes a second.
    generator = torch.Generator().manual_seed(0)
    shape = (len(cameras), FRAMES, 3, HEIGHT, WIDTH)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if device.type == "cuda":
        frames = frames.pin_memory()
    history = torch.zeros(HISTORY_POSES, 3)
    history[:, 0] = torch.arange(1 - HISTORY_POSES, 1) * _SPEED * STEP_SECONDS
    return Sample(frames, cameras, history, torch.eye(3).expand(HISTORY_POSES, 3, 3))


def _text(shape: tuple[int, ...], config: ModelConfig, end: int) -> torch.Tensor:
    """Ordinary ids, drawn at random: below the text's own end, which lies behind a tokenizer's words."""
    return torch.randint(0, end, shape, generator=torch.Generator().manual_seed(1))


def _layout(sample: Sample, images: Images, config: ModelConfig, text_tokens: int) -> Prompt:
    """The prompt as the family lays it out: text, images between their markers, history, instruction."""
    grids = images.merged_grids(config.vision.merge_size)
    assert sample.history_xyz is not None
    history = (history_bins(sample.history_xyz, config.history) + config.history.first_id).tolist()
    history = history[len(history) - config.history.num_tokens :]
    around = text_tokens - 2 * len(grids) - len(history)
    words = _text((around,), config, config.language.eos_token_id).tolist()
    labels = around // (2 * len(grids)) if config.camera_labels else 0
    before, after = words[: around // 4], words[around // 4 + labels * len(grids) :]
    label = iter(words[around // 4 :])
    ids = before
    for rows, columns in grids:
        ids = ids + [next(label) for _ in range(labels)]
        ids += [released.VISION_START, *[released.IMAGE_PAD] * (rows * columns), released.VISION_END]
    ids += history + after
    positions, rope_delta = mrope_positions(ids, released.IMAGE_PAD, grids)
    tokens = torch.tensor(ids)
    slots = (tokens == released.IMAGE_PAD).nonzero()[:, 0]
    return Prompt("", tokens, tokens, positions, rope_delta, slots)

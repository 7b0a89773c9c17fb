# SPDX-License-Identifier: Apache-2.0
"""Builds the `Prompt` of a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.errors import InputError
from alpamayo_rt.families import Family
from alpamayo_rt.prompt.future import future_bins
from alpamayo_rt.prompt.history import history_bins
from alpamayo_rt.prompt.images import preprocess
from alpamayo_rt.prompt.layout import prompt_text
from alpamayo_rt.prompt.positions import mrope_positions
from alpamayo_rt.prompt.tokenizer import IMAGE_PAD, PromptTokenizer
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.tasks import TRAJECTORY, VQA, Task


@dataclass(frozen=True)
class Images:
    """Patches (P, 1536) of all images, float32 unless said otherwise; their grid (N, 3) int64 on the CPU."""

    pixel_values: torch.Tensor
    grid: torch.Tensor

    def merged_grids(self, merge: int) -> list[tuple[int, int]]:
        """(rows, columns) of each image's tokens."""
        return [(int(h) // merge, int(w) // merge) for _, h, w in self.grid.tolist()]


@dataclass(frozen=True)
class Prompt:
    """What the language model reads before it writes.

    Attributes:
        text: the layout, one placeholder an image.
        text_ids: (L,) int64, history placeholders still in it.
        ids: (L,) int64, history tokens in place.
        positions: (3, L) int64.
        rope_delta: a generated token at index n has position n + rope_delta.
        image_slots: (M,) indices of the image tokens.
    """

    text: str
    text_ids: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    rope_delta: int
    image_slots: torch.Tensor

    def __len__(self) -> int:
        return len(self.ids)


def prepare_images(
    sample: Sample, config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> Images:
    """Resize, normalize and cut the sample's frames on `device`, or take its prepared patches.

    Values are computed in float32, and rounded once to `dtype`, as the first product of a model in that type
    would.
    """
    if sample.prepared is not None:
        merge = config.vision.merge_size
        if bool((sample.prepared.image_grid_thw[:, 1:] % merge).any()):
            raise InputError(f"image_grid_thw: expected patch rows and columns in multiples of {merge}")
        pixels = sample.prepared.pixel_values.float().to(device).to(dtype)
        return Images(pixels, sample.prepared.image_grid_thw.cpu())
    assert sample.frames is not None
    # Pinned frames travel in the stream, so that what reads them can be launched meanwhile.
    frames = sample.frames.flatten(0, 1).to(device, non_blocking=device.type == "cuda")
    pixels, grid = preprocess(
        frames, config.min_pixels, config.max_pixels, config.family.resizes_in_float, dtype
    )
    return Images(pixels, grid)


def check_request(sample: Sample, config: ModelConfig, tokenizer: PromptTokenizer) -> None:
    """Refuse what the family has no place for, before any work is done.

    Raises:
        InputError: names the field.
    """
    task = task_of(sample, config.family)
    if sample.question is not None and sample.navigation is not None:
        raise InputError("question: given with navigation, expected one or the other")
    if sample.navigation is not None and not config.family.takes_navigation:
        raise InputError(f"navigation: {config.family.title} takes no navigation, expected none")
    if sample.navigation is not None and not task.drives:
        raise InputError(f"navigation: given with task {task.name}, expected none")
    if task.asks and sample.question is None:
        raise InputError(f"question: missing, expected one for task {task.name}")
    if sample.question is not None and not task.asks:
        raise InputError(f"question: given with task {task.name}, expected none")
    if task.needs_history and sample.history_xyz is None:
        raise InputError("history_xyz: missing, expected 16 poses (only a question needs no history)")
    if task.needs_future and sample.ego_future_xyz is None:
        raise InputError(f"ego_future_xyz: missing, expected 64 poses for task {task.name}")
    for field, text in (("navigation", sample.navigation), ("question", sample.question)):
        stray = tokenizer.stray_token(text) if text is not None else None
        if stray is not None:
            raise InputError(f"{field}: holds the model's own token {stray}, expected plain text")


def task_of(sample: Sample, family: Family) -> Task:
    """What a sample asks of a family: its task, or else driving, or answering where it has a question.

    Raises:
        InputError: the family does not do that.
    """
    name = sample.task or (VQA if sample.question is not None else TRAJECTORY)
    task = family.task(name)
    if task is not None:
        return task
    if sample.task is None:
        raise InputError(f"question: {family.title} answers no questions, expected none")
    known = ", ".join(task.name for task in family.tasks)
    raise InputError(f"task: {family.title} has no {name}, expected one of {known}")


def shared_length(one: Prompt, other: Prompt) -> int:
    """With how many equal tokens two prompts begin."""
    same = min(len(one), len(other))
    differing = (one.ids[:same] != other.ids[:same]).nonzero()
    return int(differing[0]) if len(differing) else same


def _filled(ids: torch.Tensor, placeholder: int, tokens: torch.Tensor, wanted: int, field: str) -> torch.Tensor:
    if len(tokens) != wanted:
        raise InputError(f"{field}: gives {len(tokens)} tokens, expected {wanted}")
    return ids.masked_scatter(ids == placeholder, tokens)


def build_prompt(
    sample: Sample,
    images: Images,
    config: ModelConfig,
    tokenizer: PromptTokenizer,
    future_actions: torch.Tensor | None = None,
) -> Prompt:
    """The prompt of a sample.

    Args:
        sample: what is asked.
        images: its patches.
        config: layout, ids and bins.
        tokenizer: with the model's own tokens.
        future_actions: (W, 2) normalized actions of the sample's future, where its task shows one.

    Raises:
        InputError: the family has no place for what the sample asks, or a text holds special tokens.
    """
    check_request(sample, config, tokenizer)
    task = task_of(sample, config.family)
    text = prompt_text(
        config, sample.camera_indices, sample.frames_per_camera, sample.navigation, sample.question, task
    )
    grids = images.merged_grids(config.vision.merge_size)
    pieces = text.split(IMAGE_PAD)
    expanded = pieces[0] + "".join(
        IMAGE_PAD * (rows * columns) + piece for (rows, columns), piece in zip(grids, pieces[1:], strict=True)
    )
    text_ids = torch.tensor(tokenizer.encode(expanded))
    ids = text_ids
    if task.needs_history:
        assert sample.history_xyz is not None
        bins = history_bins(sample.history_xyz, config.history) + config.history.first_id
        ids = _filled(ids, tokenizer.history, bins, config.history.num_tokens, "history_xyz")
    if task.needs_future:
        assert future_actions is not None
        bins = future_bins(future_actions, config.future) + config.future.first_id
        ids = _filled(ids, tokenizer.future, bins, config.future.num_tokens, "ego_future_xyz")
    positions, rope_delta = mrope_positions(ids.tolist(), tokenizer.image_pad, grids)
    image_slots = (ids == tokenizer.image_pad).nonzero()[:, 0]
    return Prompt(text, text_ids, ids, positions, rope_delta, image_slots)

# SPDX-License-Identifier: Apache-2.0
"""Training examples, made in CPU processes: simulated windows, tokenized prompts, target words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.demo import truth as window
from alpamayo_rt.demo.arrays import FIRST_WINDOW, LAST_WINDOW, NAVIGATION, SceneArrays, stack
from alpamayo_rt.demo.camera import CAMERA_INDICES
from alpamayo_rt.demo.reroute import reroute
from alpamayo_rt.demo.simulate import Drive, simulate_drive
from alpamayo_rt.demo.words import questions
from alpamayo_rt.prompt.history import history_bins
from alpamayo_rt.prompt.layout import prompt_text
from alpamayo_rt.prompt.positions import mrope_positions
from alpamayo_rt.prompt.tokenizer import IMAGE_PAD, PromptTokenizer

FRAMES = 4
IMAGE_GRID = (4, 7)  # tokens of one image of the world, rows and columns
IGNORED = -100
_DROP_NAVIGATION = 0.1
# Shares of windows: told another branch and driven into it, given with fewer frames than four, and, at a
# junction, how many windows at random are taken besides the clip's own.
_REROUTE = 0.4
_FEWER_FRAMES = 0.08
_OTHERS_AT_JUNCTIONS = 0.8


@dataclass
class Text:
    """Token sequences of one task, filled up to one length.

    Attributes:
        ids: (B, L) int64.
        positions: (B, 3, L) int64.
        targets: (B, L) int64: the token after each place, IGNORED where it is not learned.
        length: (B,) int64: tokens of each sequence; all that follow are padding.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    length: torch.Tensor


@dataclass
class Examples:
    """A batch before its images are drawn.

    Attributes:
        scenes: B windows, their time axes cut to the frames of the window.
        shown: (B, 16) bool: which of the images, camera by camera, the prompt holds: the last of each camera.
        driving: prompt, reasoning and the start of the trajectory.
        asking: a question and its answer about the same images.
        history_xyz: (B, 16, 3) float32, and so on as in a sample; future likewise with 64 poses.
    """

    scenes: SceneArrays
    shown: torch.Tensor
    driving: Text
    asking: Text
    history_xyz: torch.Tensor
    history_rot: torch.Tensor
    future_xyz: torch.Tensor
    future_rot: torch.Tensor


class ExampleStream(IterableDataset):
    """Endless batches of examples; every worker process walks its own clips.

    Args:
        config: of the model.
        tokenizer: its tokenizer.
        seed: of the world; the split is always "train".
        batch: windows a batch.
        lengths: tokens to which driving and asking sequences are filled up.
        others: how many windows at random of a clip without a junction are taken on average besides its own,
            up to 1.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: PromptTokenizer,
        seed: int,
        batch: int,
        lengths: tuple[int, int],
        others: float = 0.4,
    ):
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.batch, self.lengths, self.others = batch, lengths, others

    def __iter__(self) -> Iterator[Examples]:
        worker = get_worker_info()
        index, stride = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        rng = np.random.default_rng([self.seed, index, 5])
        pending: list[tuple[SceneArrays, int]] = []
        while True:
            drive = simulate_drive("train", self.seed, index)
            index += stride
            steps = [int(drive.scene.t0)]
            if rng.random() < (self.others if drive.scene.navigation < 0 else _OTHERS_AT_JUNCTIONS):
                steps.append(int(rng.integers(FIRST_WINDOW, LAST_WINDOW + 1)))
            pending += [(perhaps_rerouted(drive, step, rng), step) for step in steps]
            while len(pending) >= self.batch:
                yield self.make(pending[: self.batch], rng)
                pending = pending[self.batch :]

    def make(self, windows: list[tuple[SceneArrays, int]], rng: np.random.Generator) -> Examples:
        """One batch of windows (scene, step)."""
        driving, asking, past, ahead, cut = [], [], [], [], []
        shown = torch.zeros(len(windows), len(CAMERA_INDICES), FRAMES, dtype=torch.bool)
        for row, (scene, t0) in enumerate(windows):
            frames = int(rng.integers(1, FRAMES)) if rng.random() < _FEWER_FRAMES else FRAMES
            shown[row, :, FRAMES - frames :] = True
            xyz, rot = window.history(scene, t0)
            past.append((xyz, rot))
            ahead.append(window.future(scene, t0))
            cut.append(cut_to_window(scene, t0))
            said = window.words(scene, t0)
            navigation = None if rng.random() < _DROP_NAVIGATION else said["navigation"]
            prompt = prompt_text(self.config, CAMERA_INDICES, frames, navigation)
            words = f"{said['reasoning']}<|cot_end|><|traj_future_start|>"
            driving.append(self._encode(prompt, words, torch.from_numpy(xyz).float()))
            asked = self._ask(scene, t0, said, rng)
            prompt = prompt_text(self.config, CAMERA_INDICES, frames, question=asked["question"])
            asking.append(self._encode(prompt, f"{asked['answer']}<|answer_end|><|im_end|>", None))

        def put(pairs: list, which: int) -> torch.Tensor:
            return torch.from_numpy(np.stack([pair[which] for pair in pairs]).astype(np.float32))

        return Examples(
            stack(cut),
            shown.flatten(1),
            self._fill(driving, self.lengths[0]),
            self._fill(asking, self.lengths[1]),
            put(past, 0), put(past, 1), put(ahead, 0), put(ahead, 1),
        )  # fmt: skip

    def _ask(
        self, scene: SceneArrays, t0: int, said: dict[str, Any], rng: np.random.Generator
    ) -> dict[str, str]:
        """One of the window's balanced questions, or any question where it has none."""
        asked = said["questions"]
        if not asked:
            lanes = int(scene.lanes) if scene.navigation < 0 or scene.junction_distance[t0] > 5.0 else None
            asked = questions(
                int(scene.light_colour[t0]), int(scene.lead[t0]), int(scene.next_feature[t0]), lanes,
                int(scene.word_seed), everything=True,
            )  # fmt: skip
        return asked[int(rng.integers(len(asked)))]

    def _encode(self, prompt: str, words: str, history_xyz: torch.Tensor | None) -> tuple[torch.Tensor, int]:
        images = prompt.count(IMAGE_PAD)
        expanded = prompt.replace(IMAGE_PAD, IMAGE_PAD * (IMAGE_GRID[0] * IMAGE_GRID[1]))
        prompt_ids = torch.tensor(self.tokenizer.encode(expanded))
        if history_xyz is not None:
            bins = history_bins(history_xyz, self.config.history) + self.config.history.first_id
            prompt_ids = prompt_ids.masked_scatter(prompt_ids == self.tokenizer.history, bins)
        assert int((prompt_ids == self.tokenizer.image_pad).sum()) == images * IMAGE_GRID[0] * IMAGE_GRID[1]
        ids = torch.cat([prompt_ids, torch.tensor(self.tokenizer.encode(words))])
        return ids, len(prompt_ids)

    def _fill(self, rows: list[tuple[torch.Tensor, int]], length: int) -> Text:
        ids = torch.full((len(rows), length), self.tokenizer.padding)
        targets = torch.full((len(rows), length), IGNORED)
        positions = torch.zeros(len(rows), 3, length, dtype=torch.long)
        for i, (row, prompt) in enumerate(rows):
            n = len(row)
            ids[i, :n] = row
            targets[i, prompt - 1 : n - 1] = row[prompt:]
            images = int((row == self.tokenizer.image_pad).sum()) // (IMAGE_GRID[0] * IMAGE_GRID[1])
            grids = [IMAGE_GRID] * images
            positions[i, :, :n] = mrope_positions(row.tolist(), self.tokenizer.image_pad, grids)[0]
        return Text(ids, positions, targets, torch.tensor([len(row) for row, _ in rows]))


def perhaps_rerouted(drive: Drive, t0: int, rng: np.random.Generator) -> SceneArrays:
    """The clip as it was driven, or, where its window `t0` has a navigation text, at times into another branch.

    So that the text decides and not what the past or the scene suggests.
    """
    scene = drive.scene
    if rng.random() < _REROUTE and window.navigation(scene, t0) is not None:
        others = [branch for branch in NAVIGATION if branch != NAVIGATION[int(scene.navigation)]]
        scene = reroute(drive, t0, others[int(rng.integers(2))]) or scene
    return scene


def cut_to_window(scene: SceneArrays, t0: int) -> SceneArrays:
    """The scene with only the steps that the images of window `t0` show, so that little travels."""
    steps = slice(t0 - FRAMES + 1, t0 + 1)
    return replace(
        scene, ego=scene.ego[steps], box_pose=scene.box_pose[steps], box_state=scene.box_state[steps]
    )


def to_device(examples: Any, device: torch.device) -> Any:
    """The same dataclass with its tensors on `device`."""
    moved = {}
    for f in fields(examples):
        value = getattr(examples, f.name)
        if isinstance(value, torch.Tensor):
            value = value.to(device, non_blocking=True)
        elif isinstance(value, Text):
            value = to_device(value, device)
        moved[f.name] = value
    return type(examples)(**moved)

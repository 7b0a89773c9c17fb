# SPDX-License-Identifier: Apache-2.0
"""A recorded case: CASE.npz with arrays, CASE.json with prompt and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.errors import InputError
from alpamayo_rt.families import CAMERA_NAMES, FAMILIES
from alpamayo_rt.prompt.layout import HISTORY_END
from alpamayo_rt.prompt.prompt import Images
from alpamayo_rt.sample.arrays import UNREADABLE_NPZ
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.tasks import TRAJECTORY

_NAVIGATION_MARKS = {
    f.navigation_marks for f in FAMILIES.values() if f.navigation_marks not in (None, ("", ""))
}
_QUESTION_MARKS = {t.question_marks for f in FAMILIES.values() for t in f.tasks if any(t.question_marks)}
_INSTRUCTIONS = {f.instruction for f in FAMILIES.values()}


class Case:
    """Arrays and settings of one recorded case; remembers which arrays were used.

    Raises:
        InputError: a file is missing or cannot be read.
    """

    def __init__(self, path: Path):
        self.path, self.name = path, path.stem
        self._arrays = _read_arrays(path)
        self.meta = _read_meta(path.with_suffix(".json"))
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> torch.Tensor:
        """The array as a tensor; it counts as used from now on."""
        if name not in self._arrays:
            raise InputError(f"{self.path}: array {name} is missing")
        self._used.add(name)
        return torch.from_numpy(self._arrays[name])

    def unused(self) -> list[str]:
        """Arrays that nothing has looked at."""
        return sorted(set(self._arrays) - self._used)

    def pass_over(self, *names: str) -> None:
        """Count arrays as used that an engine has no counterpart of."""
        self._used |= set(names)

    @property
    def prompt(self) -> str:
        """The prompt's text, one placeholder an image."""
        return str(self.meta.get("prompt", ""))

    @property
    def task(self) -> str | None:
        """What was asked, where the case says it."""
        return self.meta.get("task")

    @property
    def question(self) -> str | None:
        """The question, if the case is one."""
        found = self.meta.get("question")
        return found if found is not None else _marked(self.prompt, _QUESTION_MARKS)

    @property
    def navigation(self) -> str | None:
        """The navigation text of a driving prompt."""
        marked = _marked(self.prompt, _NAVIGATION_MARKS)
        if marked is not None or HISTORY_END not in self.prompt:
            return marked
        behind = self.prompt.split(HISTORY_END, 1)[1]
        return next((behind.split(s, 1)[0] for s in _INSTRUCTIONS if s in behind), "") or None

    @property
    def says(self) -> bool:
        """Whether text is all that was asked for."""
        return self.question is not None or self.task not in (None, TRAJECTORY)

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling settings as recorded."""
        return self.meta.get("sampling") or {}

    @property
    def limit(self) -> int:
        """Tokens sampled at most."""
        for source in (self.sampling, self.meta):
            for name in ("max_generation_length", "max_new_tokens"):
                if name in source:
                    return int(source[name])
        return 256

    @property
    def greedy(self) -> bool:
        """Whether the best token was always taken; a question without settings was answered so."""
        s = self.sampling
        if not s:
            return self.says
        return s.get("top_k") == 1 or s.get("top_p") == 0 or s.get("temperature") == 0

    @property
    def diffusion(self) -> dict[str, Any]:
        """Settings of the flow integration."""
        return self.sampling.get("diffusion_kwargs") or {}

    @property
    def guidance_weight(self) -> float:
        """w of the guidance."""
        return float(
            self.diffusion.get("inference_guidance_weight", self.sampling.get("inference_guidance_weight", 1))
        )

    def images(self) -> Images:
        """The recorded patches."""
        return Images(self["pixel_values"].float(), self["image_grid_thw"])

    def sample(self) -> Sample:
        """The sample that was recorded."""
        frames = self["frames"]
        cameras = self["camera_indices"] if "camera_indices" in self else torch.tensor(self._labelled_cameras())
        if frames.ndim != 4 or len(frames) % max(len(cameras), 1):
            raise InputError(f"{self.path}: frames {tuple(frames.shape)} cannot be divided over the cameras")
        if "ego_history_xyz" in self:
            xyz, rot = self["ego_history_xyz"], self["ego_history_rot"]
        else:
            # A case of the image processor alone: the history does not matter, the prompt needs one.
            xyz, rot = torch.zeros(16, 3), torch.eye(3).expand(16, 3, 3)
        return Sample(
            frames.unflatten(0, (len(cameras), -1)),
            cameras,
            xyz,
            rot,
            navigation=None if self.says else self.navigation,
            question=self.question,
            task=self.task,
            ego_future_xyz=self._optional("ego_future_xyz"),
            ego_future_rot=self._optional("ego_future_rot"),
        )

    def _optional(self, name: str) -> torch.Tensor | None:
        if name not in self:
            return None
        return self[name]

    def _labelled_cameras(self) -> list[int]:
        """The cameras whose labels stand in the prompt; the first one where there are no labels."""
        found = [(self.prompt.find(f"{name}: "), camera) for camera, name in enumerate(CAMERA_NAMES)]
        return [camera for place, camera in sorted(found) if place >= 0] or [0]

    def with_limits(self, config: ModelConfig) -> ModelConfig:
        """The config with the pixel limits of the case, where it has some."""
        low, high = (int(self.meta.get(name, getattr(config, name))) for name in ("min_pixels", "max_pixels"))
        return replace(config, min_pixels=low, max_pixels=high)


def _marked(text: str, marks: Iterable[tuple[str, str] | None]) -> str | None:
    for pair in marks:
        if pair is not None and pair[0] in text:
            return text.split(pair[0], 1)[1].split(pair[1], 1)[0]
    return None


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path}: missing, expected a recorded case") from None
    except TypeError:
        raise InputError(f"{path}: holds one array, expected an .npz archive") from None
    except UNREADABLE_NPZ as error:
        raise InputError(f"{path}: not a readable .npz ({error})") from None


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing, expected the case's settings beside its arrays") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(meta, dict):
        raise InputError(f"{path}: holds a JSON {type(meta).__name__}, expected an object")
    return meta

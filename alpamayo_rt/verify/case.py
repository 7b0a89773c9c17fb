# SPDX-License-Identifier: Apache-2.0
"""A recorded case: CASE.npz with arrays, CASE.json with prompt and settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.errors import InputError
from alpamayo_rt.families import CAMERA_NAMES
from alpamayo_rt.prompt.layout import QUESTION_END, QUESTION_START, ROUTE_END, ROUTE_START
from alpamayo_rt.prompt.prompt import Images
from alpamayo_rt.sample.arrays import UNREADABLE_NPZ
from alpamayo_rt.sample.sample import Sample


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
    def question(self) -> str | None:
        """The question, if the case is one."""
        found = self.meta.get("question")
        return found if found is not None else _between(self.prompt, QUESTION_START, QUESTION_END)

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
            return self.question is not None
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
            navigation=_between(self.prompt, ROUTE_START, ROUTE_END) if self.question is None else None,
            question=self.question,
        )

    def _labelled_cameras(self) -> list[int]:
        """The cameras whose labels stand in the prompt; the first one where there are no labels."""
        found = [(self.prompt.find(f"{name}: "), camera) for camera, name in enumerate(CAMERA_NAMES)]
        return [camera for place, camera in sorted(found) if place >= 0] or [0]

    def with_limits(self, config: ModelConfig) -> ModelConfig:
        """The config with the pixel limits of the case, where it has some."""
        low, high = (int(self.meta.get(name, getattr(config, name))) for name in ("min_pixels", "max_pixels"))
        return replace(config, min_pixels=low, max_pixels=high)


def _between(text: str, start: str, end: str) -> str | None:
    if start not in text:
        return None
    return text.split(start, 1)[1].split(end, 1)[0]


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

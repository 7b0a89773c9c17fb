# SPDX-License-Identifier: Apache-2.0
"""From the wire to an order: the only place, with schema and dialect, that knows the published names."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.sample import HISTORY_POSES, Sample
from alpamayo_rt.serving.body import LongTexts
from alpamayo_rt.serving.dialect import Dialect, cameras_named
from alpamayo_rt.serving.images import Encoded, check_together, decode_all, from_text
from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.order import Order
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.schema import Egomotion, InferRequest, Sampling
from alpamayo_rt.settings import Settings

_MOST_NUMBERS = 4 * HISTORY_POSES * 9


@dataclass(frozen=True)
class Asked:
    """A request whose texts and numbers are checked, with its images still compressed."""

    mode: str
    settings: Settings
    images: list[Encoded]
    cameras: tuple[int, ...]
    history: tuple[torch.Tensor, torch.Tensor] | None
    nav_text: str | None
    question: str | None
    stream: bool
    warnings: list[str]
    prefix: str

    def order(self, pool: Executor, device: torch.device) -> Order:
        """Decode the images and make the samples.

        Raises:
            Refusal: names the field.
        """
        frames = decode_all(self.images, len(self.cameras), pool, device)
        drive = answer = None
        try:
            if self.mode != "answer":
                assert self.history is not None
                drive = Sample(frames, self.cameras, *self.history, navigation=self.nav_text)
            if self.mode != "trajectory":
                answer = Sample(frames, self.cameras, question=self.question)
        except InputError as error:
            raise Refusal(422, in_wire_names(str(error), self.prefix)) from None
        return Order(self.mode, self.settings, drive, answer, self.warnings)


def ask(
    request: InferRequest, sampling: Sampling, prefix: str, texts: LongTexts, limits: Limits, dialect: Dialect
) -> Asked:
    """Check a request in the form of `/v1/infer`.

    Args:
        request: its driving fields.
        sampling: the object that its sampling fields are named in, for the warnings.
        prefix: of the driving fields' names in errors: empty, or `nvext.`.
        texts: the images, if they were cut out of the body.
        limits: of the server.
        dialect: of the model.

    Raises:
        Refusal: names the field.
    """
    dialect.check_model(sampling.model)
    warnings = [f"{name[:80]}: unknown field, ignored" for name in sampling.unknown()[:20]]
    if prefix:
        warnings += [f"{prefix}{name[:80]}: unknown field, ignored" for name in request.unknown()[:20]]
    driving, asking = request.mode != "answer", request.mode != "trajectory"
    nav_text = _text(request.nav_text, f"{prefix}nav_text", limits)
    question = _text(request.question, f"{prefix}question", limits)
    if asking and question is None:
        raise Refusal(422, f"{prefix}question: missing, expected one with mode {request.mode}")
    for name, given, used in (("question", question, asking), ("nav_text", nav_text, driving)):
        if given is not None and not used:
            warnings.append(f"{prefix}{name}: not used with mode {request.mode}")
    images = _images(request.images, texts, limits)
    cameras = _cameras(request, len(images), prefix, dialect)
    check_together(images, limits)
    history = None
    if driving:
        if request.egomotion is None:
            raise Refusal(422, f"{prefix}egomotion: missing, expected ego_history_xyz and ego_history_rot to drive")
        history = _history(request.egomotion, f"{prefix}egomotion")
        warnings += _doubts(*history, f"{prefix}egomotion")
    settings = _settings(request, limits, prefix)
    return Asked(
        request.mode, settings, images, cameras, history, nav_text if driving else None,
        question if asking else None, sampling.stream, warnings, prefix,
    )  # fmt: skip


def _text(text: str | None, field: str, limits: Limits) -> str | None:
    if text is None or not text.strip():
        return None
    if len(text) > limits.text_characters:
        raise Refusal(422, f"{field}: {len(text)} characters, expected at most {limits.text_characters}")
    return text


def _images(given: Sequence[str], texts: LongTexts, limits: Limits) -> list[Encoded]:
    if not 1 <= len(given) <= limits.images:
        raise Refusal(422, f"images: {len(given)}, expected 1 to {limits.images}")
    images = []
    for place, text in enumerate(given):
        cut = texts.get(text)
        images.append(from_text(f"images[{place}]", text if cut is None else cut, limits))
    return images


def _cameras(request: InferRequest, images: int, prefix: str, dialect: Dialect) -> tuple[int, ...]:
    names, frames = request.camera_order, request.num_frames_per_camera
    if names is None:
        default = dialect.default_cameras
        if images == dialect.default_images and frames in (None, dialect.default_frames):
            return default
        if request.mode != "answer":
            raise Refusal(
                422,
                f"{prefix}camera_order: missing, expected camera_order and num_frames_per_camera "
                f"with {images} images (without them there are {dialect.default_images})",
            )
        return default if images % len(default) == 0 else (dialect.single_camera,)
    cameras = cameras_named(names, f"{prefix}camera_order")
    if frames is None:
        fits = images % len(cameras) == 0 if request.mode == "answer" else images == dialect.default_frames * len(cameras)
        if not fits:
            raise Refusal(422, f"{prefix}num_frames_per_camera: missing, expected it with camera_order")
    elif frames < 1 or frames * len(cameras) != images:
        raise Refusal(
            422, f"{prefix}num_frames_per_camera: {frames} for {len(cameras)} cameras, but there are {images} images"
        )
    return cameras


def _settings(request: InferRequest, limits: Limits, prefix: str) -> Settings:
    for name, value, most in (
        ("num_traj_samples", request.num_traj_samples, limits.candidates),
        ("num_diffusion_steps", request.num_diffusion_steps, limits.steps),
        ("max_tokens", request.max_tokens, limits.tokens),
    ):
        if not 1 <= value <= most:
            place = name if name == "max_tokens" else prefix + name
            raise Refusal(422, f"{place}: {value}, expected a whole number from 1 to {most}")
    if request.guidance_weight is not None and request.nav_text is None and request.mode != "answer":
        raise Refusal(422, f"{prefix}guidance_weight: given without nav_text, expected one to be guided by")
    top_k = request.top_k
    try:
        return Settings(
            num_candidates=request.num_traj_samples,
            num_diffusion_steps=request.num_diffusion_steps,
            multi_seq=request.multi_seq,
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=None if top_k is not None and top_k <= 0 else top_k,  # many clients write 0 or −1 for off
            max_generate_length=request.max_tokens,
            seed=0 if request.seed is None else request.seed,
            guidance_weight=request.guidance_weight,
        )
    except InputError as error:
        raise Refusal(422, in_wire_names(str(error), prefix)) from None


def _history(ego: Egomotion, field: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(16, 3) and (16, 3, 3); shapes and values are checked by the sample."""
    xyz = _numbers(ego.ego_history_xyz, f"{field}.ego_history_xyz")
    rot = _numbers(ego.ego_history_rot, f"{field}.ego_history_rot")
    while rot.ndim > 2 and rot.shape[0] == 1:
        rot = rot[0]
    if rot.shape == (HISTORY_POSES, 4):
        rot = matrices(rot, f"{field}.ego_history_rot")
    if rot.shape != (HISTORY_POSES, 3, 3):
        raise Refusal(
            422,
            f"{field}.ego_history_rot: shape {rot.shape}, expected 16 quaternions [w, x, y, z] or 16 matrices 3 × 3",
        )
    return torch.from_numpy(xyz), torch.from_numpy(rot)


def _numbers(value: list[Any], field: str) -> np.ndarray:
    room, stack, fine = _MOST_NUMBERS, [value], True
    while stack and fine:
        item = stack.pop()
        room -= len(item)
        stack += [inner for inner in item[: max(room, 0)] if isinstance(inner, list)]
        fine = room >= 0 and all(type(inner) in (list, int, float) for inner in item)
    try:
        array = np.array(value) if fine else None
    except (ValueError, OverflowError):
        array = None
    if array is None or array.dtype.kind not in "iuf":
        raise Refusal(422, f"{field}: expected {HISTORY_POSES} rows of numbers")
    return array.astype(np.float64)


def matrices(quaternions: np.ndarray, field: str) -> np.ndarray:
    """Rotation matrices (n, 3, 3) of unit quaternions (n, 4), w first.

    Raises:
        Refusal: their length is not 1.
    """
    length = np.linalg.norm(quaternions, axis=1)
    if not bool(np.all(np.abs(length - 1) < 0.01)):
        raise Refusal(422, f"{field}: quaternions of length {length.min():.3g} to {length.max():.3g}, expected 1")
    w, x, y, z = (quaternions / length[:, None]).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def _doubts(xyz: torch.Tensor, rot: torch.Tensor, field: str) -> list[str]:
    """What is allowed and probably a mistake."""
    doubts = []
    if tuple(xyz.shape[-2:]) == (HISTORY_POSES, 3) and bool((xyz[..., -1, :].abs() > 0.5).any()):
        doubts.append(f"{field}.ego_history_xyz: the last pose is not the origin, expected the ego frame at t0")
    if bool(((rot[-1] - torch.eye(3)).abs() > 0.05).any()):
        doubts.append(f"{field}.ego_history_rot: the last rotation turns, expected the ego frame at t0")
    return doubts


_NAMES = {
    "history_xyz": "egomotion.ego_history_xyz",
    "history_rot": "egomotion.ego_history_rot",
    "navigation": "nav_text",
    "question": "question",
    "num_candidates": "num_traj_samples",
    "guidance_weight": "guidance_weight",
    "multi_seq": "multi_seq",
    "camera_indices": "camera_order",
}


def in_wire_names(message: str, prefix: str = "") -> str:
    """An error's sentence with the field as the wire spells it."""
    name, colon, rest = message.partition(":")
    if name in _NAMES:
        return prefix + _NAMES[name] + colon + rest
    return {"max_generate_length": "max_tokens", "frames": "images"}.get(name, name) + colon + rest

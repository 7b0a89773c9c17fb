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
from alpamayo_rt.sample.sample import FUTURE_POSES, HISTORY_POSES, Sample
from alpamayo_rt.serving.body import LongTexts
from alpamayo_rt.serving.dialect import MODES, Dialect, cameras_named
from alpamayo_rt.serving.images import Encoded, check_together, decode_all, from_text
from alpamayo_rt.serving.limits import Limits
from alpamayo_rt.serving.order import Order
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.serving.schema import InferRequest, Sampling
from alpamayo_rt.settings import Settings
from alpamayo_rt.tasks import TRAJECTORY, VQA, Task

Poses = tuple[torch.Tensor, torch.Tensor]
"""Positions and rotations."""


@dataclass(frozen=True)
class Asked:
    """A request whose texts and numbers are checked, with its images still compressed."""

    mode: str
    task: str | None
    settings: Settings
    images: list[Encoded]
    cameras: tuple[int, ...]
    history: Poses | None
    future: Poses | None
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
                answer = Sample(frames, self.cameras, question=self.question, task=self.task)
                if self.task is not None and self.history is not None:
                    answer = answer.replaced(history_xyz=self.history[0], history_rot=self.history[1])
                if self.future is not None:
                    answer = answer.replaced(ego_future_xyz=self.future[0], ego_future_rot=self.future[1])
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
    mode, task = _asked_for(request, dialect)
    driving, asking = mode != "answer", mode == "both" or task.asks
    nav_text = _text(request.nav_text, f"{prefix}nav_text", limits)
    question = _text(request.question, f"{prefix}question", limits)
    if asking and question is None:
        raise Refusal(422, f"{prefix}question: missing, expected one with mode {mode}")
    for name, given, used in (("question", question, asking), ("nav_text", nav_text, driving)):
        if given is not None and not used:
            warnings.append(f"{prefix}{name}: not used with mode {mode}")
    images = _images(request.images, texts, limits)
    cameras = _cameras(request, len(images), mode, task, prefix, dialect)
    check_together(images, limits)
    history = future = None
    if driving or task.needs_history:
        ego = request.egomotion
        if ego is None:
            raise Refusal(
                422, f"{prefix}egomotion: missing, expected ego_history_xyz and ego_history_rot to drive"
            )
        history = _poses(
            ego.ego_history_xyz, ego.ego_history_rot, f"{prefix}egomotion.ego_history", HISTORY_POSES
        )
        warnings += _doubts(*history, f"{prefix}egomotion")
        if task.needs_future:
            field = f"{prefix}egomotion.ego_future"
            if ego.ego_future_xyz is None or ego.ego_future_rot is None:
                raise Refusal(422, f"{field}_xyz: missing, expected it and ego_future_rot for task {task.name}")
            future = _poses(ego.ego_future_xyz, ego.ego_future_rot, field, FUTURE_POSES)
    settings = _settings(request, driving, limits, prefix)
    return Asked(
        mode, None if driving or task.name == VQA else task.name, settings, images, cameras, history, future,
        nav_text if driving else None, question if asking else None, sampling.stream, warnings, prefix,
    )  # fmt: skip


def _asked_for(request: InferRequest, dialect: Dialect) -> tuple[str, Task]:
    """The mode, and the task of it (with both that of the drive)."""
    if request.task is None:
        if request.mode == "both":
            dialect.task(VQA, "mode")
        return request.mode, dialect.task(MODES.get(request.mode, TRAJECTORY), "mode")
    task = dialect.task(request.task, "task")
    mode = "trajectory" if task.drives else "answer"
    if "mode" in request.model_fields_set and request.mode != mode:
        raise Refusal(422, f"mode: {request.mode!r} with task {task.name}, expected one of the two")
    return mode, task


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


def _cameras(
    request: InferRequest, images: int, mode: str, task: Task, prefix: str, dialect: Dialect
) -> tuple[int, ...]:
    names, frames = request.camera_order, request.num_frames_per_camera
    if names is None:
        default = task.cameras
        usual = len(default) * dialect.default_frames
        if images == usual and frames in (None, dialect.default_frames):
            return default
        if mode != "answer":
            raise Refusal(
                422,
                f"{prefix}camera_order: missing, expected camera_order and num_frames_per_camera "
                f"with {images} images (without them there are {usual})",
            )
        return default if images % len(default) == 0 else (dialect.single_camera,)
    cameras = cameras_named(names, f"{prefix}camera_order")
    if frames is None:
        fits = (
            images % len(cameras) == 0 if mode == "answer" else images == dialect.default_frames * len(cameras)
        )
        if not fits:
            raise Refusal(422, f"{prefix}num_frames_per_camera: missing, expected it with camera_order")
    elif frames < 1 or frames * len(cameras) != images:
        raise Refusal(
            422,
            f"{prefix}num_frames_per_camera: {frames} for {len(cameras)} cameras, but there are {images}",
        )
    return cameras


def _settings(request: InferRequest, driving: bool, limits: Limits, prefix: str) -> Settings:
    for name, value, most in (
        ("num_traj_samples", request.num_traj_samples, limits.candidates),
        ("num_diffusion_steps", request.num_diffusion_steps, limits.steps),
        ("max_tokens", request.max_tokens, limits.tokens),
    ):
        if value is not None and not 1 <= value <= most:
            place = name if name == "max_tokens" else prefix + name
            raise Refusal(422, f"{place}: {value}, expected a whole number from 1 to {most}")
    if request.guidance_weight is not None and request.nav_text is None and driving:
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


def _poses(xyz: list[Any], rot: list[Any], field: str, count: int) -> Poses:
    """(count, 3) and (count, 3, 3); what is left to check is checked by the sample."""
    places = _numbers(xyz, f"{field}_xyz", count)
    turns = _numbers(rot, f"{field}_rot", count)
    while turns.ndim > 2 and turns.shape[0] == 1:
        turns = turns[0]
    if turns.shape == (count, 4):
        turns = matrices(turns, f"{field}_rot")
    if turns.shape != (count, 3, 3):
        raise Refusal(
            422,
            f"{field}_rot: shape {turns.shape}, expected {count} quaternions [w, x, y, z] or matrices",
        )
    return torch.from_numpy(places), torch.from_numpy(turns)


def _numbers(value: list[Any], field: str, rows: int) -> np.ndarray:
    room, stack, fine = 4 * rows * 9, [value], True
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
        raise Refusal(422, f"{field}: expected {rows} rows of numbers")
    return array.astype(np.float64)


def matrices(quaternions: np.ndarray, field: str) -> np.ndarray:
    """Rotation matrices (n, 3, 3) of unit quaternions (n, 4), w first.

    Raises:
        Refusal: their length is not 1.
    """
    length = np.linalg.norm(quaternions, axis=1)
    if not bool(np.all(np.abs(length - 1) < 0.01)):
        raise Refusal(
            422, f"{field}: quaternions of length {length.min():.3g} to {length.max():.3g}, expected 1"
        )
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
    "ego_future_xyz": "egomotion.ego_future_xyz",
    "ego_future_rot": "egomotion.ego_future_rot",
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

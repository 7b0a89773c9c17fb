# SPDX-License-Identifier: Apache-2.0
"""One picture of a result: what the cameras saw, what the model thought, and where it would drive."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.errors import InputError
from alpamayo_rt.plot_cameras import draw_cameras
from alpamayo_rt.plot_scene import MUTED_COLOUR, TEXT_COLOUR, colour_of, draw_scene
from alpamayo_rt.plot_text import clip, fit_paragraphs, font, line_height, lines_of, width_of
from alpamayo_rt.result import Result
from alpamayo_rt.sample.sample import Sample, as_array
from alpamayo_rt.tasks import AUTO_LABELING, GROUNDING, META_ACTION, TRAJECTORY, VQA

WIDTH, HEIGHT = 1600, 1000
"""Pixels of the picture."""

_MARGIN = 24
_TOP = 68  # below the title
_TIMES = 894  # where the strip with the times starts
_SPLIT = 940  # right end of cameras and text
_SCENE = 968  # left end of the scene
_SHOWN = 6  # reasonings that are listed at most
_SIZES = (30, 27, 24, 22, 20, 18, 17, 16, 15)  # of texts, the largest that fits is taken
_COMFORTABLE = 20
_HEADING, _SECTION_GAP, _TEXT_GAP, _INDENT = 27, 14, 6, 34
_BAR = "#6e8fb3"
_TITLES = {
    TRAJECTORY: "reasoning and trajectories",
    VQA: "question and answer",
    GROUNDING: "what was found",
    META_ACTION: "reasoning and meta-actions",
    AUTO_LABELING: "auto-label",
}
_WARNING = "#a40e26"
_STOPS = {"limit": "token limit reached", "no_trajectory_token": "ended without asking for a trajectory"}


def draw(
    sample: Sample,
    result: Result,
    future_xyz: torch.Tensor | np.ndarray | Sequence | None = None,
    title: str | None = None,
) -> Image.Image:
    """Draw a sample and its result.

    Args:
        sample: what the model was given; its newest frames are shown.
        result: what it answered.
        future_xyz: (N, 2 or 3) metres in the ego frame at t0, where the vehicle really went; leading
            dimensions of one are accepted.
        title: the headline; None names the kind of result.

    Returns:
        An RGB picture of 1600 × 1000 pixels; the same arguments give the same picture.

    Raises:
        InputError: `future_xyz` has another shape or holds a value that is not finite.
    """
    future = None if future_xyz is None else _future(future_xyz)
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "#ffffff")
    _draw_title(canvas, result, title)
    sections = _words(sample, result)
    driving = result.trajectories is not None
    room = _TIMES - 12 - _TOP
    if driving:
        # The cameras get what a comfortable text leaves, but never less than they need to be recognized.
        room = min(600, max(360, room - 16 - _comfortable_height(sections)))
    boxes = result.reading.boxes or ()
    used = draw_cameras(canvas, sample, _MARGIN, _TOP, _SPLIT - _MARGIN, room, boxes)
    if driving:
        _draw_words(canvas, sections, (_MARGIN, _TOP + used + 16, _SPLIT, _TIMES - 12))
    box = (_SCENE, _TOP, WIDTH - _MARGIN, _TIMES - 10)
    if result.trajectories is not None:
        history = None if sample.history_xyz is None else sample.history_xyz.numpy()
        draw_scene(canvas, box, result.trajectories.detach().float().cpu().numpy(), history, future)
    else:
        _draw_words(canvas, sections, box)
    _draw_times(canvas, result.milliseconds)
    return canvas


def save(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    data = io.BytesIO()
    image.save(data, format="PNG")
    write_atomically(path, data.getvalue())


def _future(value: object) -> np.ndarray:
    array = as_array(value, "future_xyz")
    original = tuple(array.shape)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.shape[1] not in (2, 3) or not len(array):
        raise InputError(f"future_xyz: shape {original}, expected (poses, 3)")
    if not bool(torch.isfinite(array).all()):
        raise InputError("future_xyz: holds a value that is not finite")
    return array.detach().cpu().numpy()


# A section: heading, its texts, and for each text a colour and a number or None.
_Section = tuple[str, list[tuple[str, int | None]], str]


def _words(sample: Sample, result: Result) -> list[_Section]:
    found: list[_Section] = []
    if sample.navigation is not None:
        weight = None if result.trace is None else result.trace.guidance_weight
        guided = "" if weight is None else f" (guidance weight {weight:g})"
        found.append((f"Navigation{guided}", [(sample.navigation, None)], TEXT_COLOUR))
    if sample.question is not None:
        found.append(("Question", [(sample.question, None)], TEXT_COLOUR))
    read = result.reading.meta_action or result.reading.auto_label
    if read is not None:
        said = [(name, text) for name, text in asdict(read).items() if text is not None]
        found += [(name.replace("_", " ").capitalize(), [(text, None)], TEXT_COLOUR) for name, text in said]
    elif result.answer is not None:
        found.append(("Answer", [(result.answer.strip() or "(empty)", None)], TEXT_COLOUR))
    if result.reading.unparsed is not None:
        found.append(("Not read", [(result.reading.unparsed, None)], _WARNING))
    texts = [text.strip() or "(empty)" for text in result.reasoning]
    if len(texts) == 1:
        found.append(("Reasoning", [(texts[0], None)], TEXT_COLOUR))
    elif texts:
        more = f" (and {len(texts) - _SHOWN} more)" if len(texts) > _SHOWN else ""
        numbered: list[tuple[str, int | None]] = [(text, k) for k, text in enumerate(texts[:_SHOWN])]
        found.append((f"Reasoning of each candidate{more}", numbered, TEXT_COLOUR))
    stops = _stops(result.stop_reasons)
    if stops:
        found.append(("Did not finish", [(stops, None)], _WARNING))
    return found


def _stops(reasons: Sequence[str]) -> str:
    groups: dict[str, list[int]] = {}
    for k, reason in enumerate(reasons):
        if reason != "finished":
            groups.setdefault(reason, []).append(k + 1)
    found = []
    for reason, numbers in groups.items():
        text = _STOPS.get(reason, reason.replace("_", " "))
        if len(reasons) > 1:
            which = ", ".join(map(str, numbers[:12])) + (", …" if len(numbers) > 12 else "")
            text = f"{'candidate' if len(numbers) == 1 else 'candidates'} {which}: {text}"
        found.append(text)
    return "; ".join(found)


def _draw_words(
    canvas: Image.Image,
    sections: list[_Section],
    box: tuple[int, int, int, int],
) -> None:
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = box
    texts = [entry for _, entries, _ in sections for entry in entries]
    if not texts:
        return
    room = bottom - top - len(sections) * (_HEADING + _SECTION_GAP)
    width = right - left - _indent(sections)
    size, lines = fit_paragraphs([text for text, _ in texts], width, room, _SIZES, _TEXT_GAP)
    step = line_height(size)
    blocks = iter(lines)
    y = top
    for name, entries, colour in sections:
        pen.text((left, y), name, MUTED_COLOUR if colour == TEXT_COLOUR else colour, font(16))
        y += _HEADING
        for _, number in entries:
            block = next(blocks)
            if number is not None and block:
                back = colour_of(number)
                middle = y + size * 0.62
                pen.rounded_rectangle((left, middle - 10, left + 24, middle + 10), 5, fill=back)
                ink = "#ffffff" if ImageColor.getrgb(back)[1] < 130 else "#000000"
                pen.text((left + 12, middle), str(number + 1), ink, font(15), anchor="mm")
            for line in block:
                pen.text((left + (_INDENT if number is not None else 0), y), line, colour, font(size))
                y += step
            y += _TEXT_GAP
        y += _SECTION_GAP - _TEXT_GAP


def _comfortable_height(sections: list[_Section]) -> int:
    width = _SPLIT - _MARGIN - _indent(sections)
    texts = [text for _, entries, _ in sections for text, _ in entries]
    count = sum(len(lines_of(text, _COMFORTABLE, width, 30)) for text in texts)
    spaces = len(sections) * (_HEADING + _SECTION_GAP) + len(texts) * _TEXT_GAP
    return count * line_height(_COMFORTABLE) + spaces


def _indent(sections: list[_Section]) -> int:
    return _INDENT if any(number is not None for _, entries, _ in sections for _, number in entries) else 0


def _draw_title(canvas: Image.Image, result: Result, title: str | None) -> None:
    facts = []
    if result.trajectories is not None:
        count, poses = result.trajectories.shape[:2]
        facts.append(f"{count} {'candidate' if count == 1 else 'candidates'}, {poses / 10:g} s ahead")
    facts += [f"{result.prompt_tokens} prompt tokens", f"seed {result.seed}"]
    right = "   |   ".join(facts)
    pen = ImageDraw.Draw(canvas)
    pen.text((WIDTH - _MARGIN, 34), right, MUTED_COLOUR, font(17), anchor="rm")
    if title is None:
        task = VQA if result.trajectories is None and result.task == TRAJECTORY else result.task
        title = f"Alpamayo: {_TITLES[task]}"
    room = WIDTH - 3 * _MARGIN - width_of(right, 17)
    pen.text((_MARGIN, 34), clip(title, 28, room), TEXT_COLOUR, font(28), anchor="lm")


def _draw_times(canvas: Image.Image, milliseconds: dict[str, float]) -> None:
    pen = ImageDraw.Draw(canvas)
    pen.line((_MARGIN, _TIMES, WIDTH - _MARGIN, _TIMES), fill="#d0d7de")
    stages = {stage: ms for stage, ms in milliseconds.items() if stage != "total"}
    total = milliseconds.get("total", sum(stages.values()))
    pen.text((_MARGIN, _TIMES + 14), "Time", MUTED_COLOUR, font(16))
    pen.text((_MARGIN, _TIMES + 40), f"{_short(total)} ms", TEXT_COLOUR, font(26))
    if not stages:
        return
    left, gap = _MARGIN + 170, 20
    cell = (WIDTH - _MARGIN - left + gap) / len(stages) - gap
    longest = max(max(stages.values()), 1e-9)
    for i, (stage, ms) in enumerate(stages.items()):
        x = left + i * (cell + gap)
        number = f"{_short(ms)} ms"
        pen.text((x + cell, _TIMES + 16), number, TEXT_COLOUR, font(18), anchor="ra")
        name = clip(stage.replace("_", " "), 18, max(10.0, cell - width_of(number, 18) - 8))
        pen.text((x, _TIMES + 16), name, MUTED_COLOUR, font(18))
        y = _TIMES + 48
        pen.rectangle((x, y, x + cell, y + 14), fill="#eef1f4")
        pen.rectangle((x, y, x + max(1.0, cell * max(ms, 0) / longest), y + 14), fill=_BAR)


def _short(ms: float) -> str:
    return f"{ms:.1f}" if ms < 100 else f"{ms:,.0f}"

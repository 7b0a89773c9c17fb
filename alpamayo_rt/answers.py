# SPDX-License-Identifier: Apache-2.0
"""What the model's texts say, as typed values: meta-actions, auto-labels, boxes.

A model writes what it likes. Whatever cannot be read stays text, and the reason stands beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from alpamayo_rt.tasks import BOXES, LABELS, META_ACTIONS

_AXIS = re.compile(r"(Longitudinal|Lateral|Lane):")
_BOX_NAMES = ("bbox_2d", "bbox", "box")
_BOX_SCALE = 1000.0
"""The backbone writes coordinates in thousandths of the image's sides."""
FRONT_CAMERA = 1


@dataclass(frozen=True)
class MetaAction:
    """What the vehicle is to do, each None where the text does not say."""

    longitudinal: str | None = None
    lateral: str | None = None
    lane: str | None = None


@dataclass(frozen=True)
class AutoLabel:
    """The four analyses of an auto-label, each None where the text has none."""

    critical_components_analysis: str | None = None
    ego_vehicle_motion_analysis: str | None = None
    trajectory_analysis: str | None = None
    chain_of_causation: str | None = None


@dataclass(frozen=True)
class Box:
    """A box in pixels of the newest image of `camera`, from its upper left corner: (x, y) to (x, y)."""

    camera: int
    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Reading:
    """What was read from a text.

    Attributes:
        reasoning: the text before the meta-actions, where they were asked for.
        meta_action, auto_label, boxes: what was asked for; None: something else, or it could not be read.
        unparsed: why not all of it could be read, else None.
    """

    reasoning: str | None = None
    meta_action: MetaAction | None = None
    auto_label: AutoLabel | None = None
    boxes: tuple[Box, ...] | None = None
    unparsed: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of a response in the result file (docs/formats.md)."""
        found = {name: getattr(self, name) for name in ("meta_action", "auto_label") if getattr(self, name)}
        out: dict[str, Any] = {name: asdict(value) for name, value in found.items()}
        if self.boxes is not None:
            out["boxes"] = [asdict(box) | {"box": list(box.box)} for box in self.boxes]
        return out if self.unparsed is None else out | {"unparsed": self.unparsed}


def read_answer(text: str, reads: str, cameras: Sequence[int], size: tuple[int, int]) -> Reading:
    """Read a text.

    Args:
        text: what the model said.
        reads: what to read from it (`tasks.Task.reads`).
        cameras: those of the images, in their order.
        size: height and width of the images in pixels.
    """
    if reads == META_ACTIONS:
        return _meta_action(text)
    if reads == LABELS:
        return _auto_label(text)
    if reads == BOXES:
        camera = FRONT_CAMERA if FRONT_CAMERA in cameras else cameras[0]
        return _boxes(text, camera, size)
    return Reading()


def _meta_action(text: str) -> Reading:
    first = _AXIS.search(text)
    if first is None:
        return Reading(text.strip(), unparsed="meta_action: no Longitudinal:, Lateral: or Lane: in the text")
    pieces = _AXIS.split(text[first.start() :])[1:]
    said: dict[str, str] = {}
    for axis, value in zip(pieces[::2], pieces[1::2], strict=True):
        value = value.strip().removesuffix(".").strip()
        if value:
            said.setdefault(axis.lower(), value)
    missing = [field.name for field in fields(MetaAction) if field.name not in said]
    reason = f"meta_action: the text does not say {', '.join(missing)}" if missing else None
    return Reading(text[: first.start()].strip(), MetaAction(**said) if said else None, unparsed=reason)


def _auto_label(text: str) -> Reading:
    names = [field.name for field in fields(AutoLabel)]
    for value in _json_values(text, "{"):
        if isinstance(value, dict) and any(name in value for name in names):
            return Reading(auto_label=AutoLabel(**{name: _as_text(value.get(name)) for name in names}))
    return Reading(unparsed="auto_label: no JSON object with one of its four fields in the text")


def _boxes(text: str, camera: int, size: tuple[int, int]) -> Reading:
    for value in _json_values(text, "[{"):
        entries = value if isinstance(value, list) else [value]
        if entries and not any(isinstance(entry, dict) for entry in entries):
            continue
        read, wrong = [], []
        for n, entry in enumerate(entries):
            box = _box(entry, camera, size)
            read.append(box) if isinstance(box, Box) else wrong.append(f"boxes[{n}]: {box}")
        if wrong and not read:
            return Reading(unparsed=wrong[0])
        return Reading(boxes=tuple(read), unparsed="; ".join(wrong) or None)
    return Reading(unparsed="boxes: no JSON with bbox_2d in the text")


def _box(entry: object, camera: int, size: tuple[int, int]) -> Box | str:
    """The box, or why it is none."""
    corners = (
        next((entry[name] for name in _BOX_NAMES if name in entry), None) if isinstance(entry, dict) else None
    )
    if not isinstance(entry, dict) or corners is None:
        return "no bbox_2d"
    shown = json.dumps(corners)[:60]
    if not isinstance(corners, list) or len(corners) != 4 or not all(_is_coordinate(c) for c in corners):
        return f"{shown}, expected four numbers from 0 to 1000"
    x0, y0, x1, y1 = corners
    if x0 > x1 or y0 > y1:
        return f"{shown}, expected the upper left corner before the lower right one"
    height, width = size
    pixels = (x0 * width, y0 * height, x1 * width, y1 * height)
    left, top, right, bottom = (round(value / _BOX_SCALE, 2) for value in pixels)
    return Box(camera, str(entry.get("label") or ""), (left, top, right, bottom))


def _is_coordinate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _BOX_SCALE


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    return json.dumps(value, ensure_ascii=False)


def _json_values(text: str, opening: str) -> Iterator[Any]:
    """Every JSON value in a text that starts with one of `opening`, outer ones first."""
    decoder, at = json.JSONDecoder(parse_constant=_refuse), 0
    while at < len(text):
        if text[at] not in opening:
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        yield value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")

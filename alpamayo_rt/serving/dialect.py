# SPDX-License-Identifier: Apache-2.0
"""What of the published interface depends on the model's generation: names of models and cameras, defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alpamayo_rt.families import Family
from alpamayo_rt.sample.cameras import CAMERA_FEATURES
from alpamayo_rt.serving.refusal import Refusal
from alpamayo_rt.tasks import TRAJECTORY, VQA, Task

API_VERSION = "1.0.0"
"""Of the documentation that is followed: the one for Alpamayo 1.5."""


MODES = {"trajectory": TRAJECTORY, "answer": VQA}
"""What the first generation calls `mode`, by the task that it asks for."""


@dataclass(frozen=True)
class Dialect:
    """One generation's interface.

    Attributes:
        names: under which the model is served; the first one is its own.
        family: what it can be asked, and the cameras of images that come without `camera_order`.
        default_frames: of each of these cameras.
        single_camera: the camera of a question's images whose number is not a multiple of the default cameras.
    """

    names: tuple[str, ...]
    family: Family
    default_frames: int = 4
    single_camera: int = 1

    def task(self, name: str, field: str) -> Task:
        """A task by its name.

        Raises:
            Refusal: names those that the model has.
        """
        found = self.family.task(name)
        if found is None:
            known = ", ".join(task.name for task in self.family.tasks)
            raise Refusal(422, f"{field}: {name!r}, but {self.family.title} knows {known}")
        return found

    def check_model(self, name: str | None) -> None:
        """Refuse a model that is not served here.

        Raises:
            Refusal: names those that are.
        """
        if name and _plain(name) not in {_plain(known) for known in self.names}:
            raise Refusal(404, f"model: {name[:80]!r} is not served here, expected {' or '.join(self.names)}")


def dialect_of(family: Family, own_name: str) -> Dialect:
    """The interface of a model.

    Args:
        family: the second name is its released model's, whatever its size.
        own_name: of the checkpoint, or what it is to be called.
    """
    released = re.sub(r"-\d+b$", "", family.hub_id.lower()).replace("-1.", "1.")
    return Dialect(tuple(dict.fromkeys((own_name, released))), family)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9./]", "", re.sub(r"-\d+b$", "", name.lower()))


def _camera_numbers() -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, name in enumerate(CAMERA_FEATURES):
        short = re.sub(r"_\d+fov$", "", name.removeprefix("camera_"))
        numbers |= {name: number, name.removeprefix("camera_"): number, short: number}
    return numbers


CAMERA_NUMBERS = _camera_numbers()
"""Every accepted spelling of a camera → its number: `camera_front_wide_120fov`, …, `front_wide`."""


def cameras_named(names: list[str], field: str) -> tuple[int, ...]:
    """Numbers of cameras.

    Raises:
        Refusal: an unknown name, one twice, or none at all.
    """
    numbers = []
    for place, name in enumerate(names):
        number = CAMERA_NUMBERS.get(name.strip().lower())
        if number is None:
            known = ", ".join(n for n in CAMERA_NUMBERS if "fov" not in n)
            raise Refusal(422, f"{field}[{place}]: {name[:40]!r}, expected one of {known}")
        numbers.append(number)
    if not numbers or len(set(numbers)) != len(numbers):
        raise Refusal(422, f"{field}: {names[:8]!r}, expected one or more distinct cameras")
    return tuple(numbers)

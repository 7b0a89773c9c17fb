# SPDX-License-Identifier: Apache-2.0
"""The request file (docs/formats.md): JSON → samples and settings, one request at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpamayo_rt.errors import InputError
from alpamayo_rt.families import Family
from alpamayo_rt.sample.arrays import PreparedFile, read_npy
from alpamayo_rt.sample.image_files import read_frames
from alpamayo_rt.sample.message_text import SpelledLayout, recognize
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.settings import SETTING_NAMES, Settings

_SAMPLE_FIELDS = (
    "id", "messages", "camera_indices", "ego_history_xyz", "ego_history_rot",
    "ego_history_xyz_npy", "ego_history_rot_npy", "nav_text", "question",
    "task", "ego_future_xyz", "ego_future_rot", "ego_future_xyz_npy", "ego_future_rot_npy",
)  # fmt: skip
_POSES = ("ego_history_xyz", "ego_history_rot", "ego_future_xyz", "ego_future_rot")
_SINGLE_CAMERA = (1,)


@dataclass(frozen=True)
class Request:
    """One entry of `requests`; `problem` says why it cannot even be looked at, if so."""

    index: int
    id: str
    raw: Mapping[str, Any]
    folder: Path
    defaults: Mapping[str, Any]
    problem: str | None = None

    def settings(self, overrides: Mapping[str, Any]) -> Settings:
        """Command line over request over file over default.

        Raises:
            InputError: names the field.
        """
        own = {name: self.raw[name] for name in SETTING_NAMES if name in self.raw}
        return Settings(**{**self.defaults, **own, **overrides})

    def sample(
        self, family: Family, history: Mapping[str, Any] | None = None, prepared: PreparedFile | None = None
    ) -> Sample:
        """Read what the request names and make the sample.

        Args:
            family: whose layout the texts may spell.
            history: `ego_history_xyz`, `ego_future_xyz` and their rotations from the command line, in place of
                the request's.
            prepared: patches in place of the messages' images.

        Raises:
            InputError: names the field.
        """
        if self.problem is not None:
            raise InputError(self.problem)
        history = history or {}
        for name in self.raw:
            if name not in _SAMPLE_FIELDS and name not in SETTING_NAMES:
                known = ", ".join((*_SAMPLE_FIELDS, *SETTING_NAMES))
                raise InputError(f"{name}: unknown field, expected one of {known}")
        images, layout = self._read_messages(family)
        navigation = self._text("nav_text", layout.navigation)
        question = self._text("question", layout.question)
        task = self._text("task", layout.task)
        arrays = {
            argument_name(name): history[name] if name in history else self._array(name) for name in _POSES
        }
        if prepared is not None:
            given = {name: array for name, array in arrays.items() if array is not None}
            return prepared.sample(navigation, question, task).replaced(**given)
        cameras = self._cameras(len(images), layout, family.default_cameras(task, question))
        frames = read_frames(images, max(len(cameras), 1))
        return Sample(frames, cameras, navigation=navigation, question=question, task=task, **arrays)

    def located(self, error: InputError) -> str:
        """The error's sentence with `requests[i]` before the field in the request file's spelling."""
        return f"requests[{self.index}].{in_file_names(str(error))}"

    def _read_messages(self, family: Family) -> tuple[list[Path], SpelledLayout]:
        messages = self.raw.get("messages", [])
        if not isinstance(messages, list):
            raise InputError(f"messages: {type(messages).__name__}, expected a list")
        images: list[Path] = []
        layout = SpelledLayout()
        for n, message in enumerate(messages):
            if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
                raise InputError(f"messages[{n}]: expected an object with role system, user or assistant")
            content = message.get("content")
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            if not isinstance(content, list):
                raise InputError(f"messages[{n}].content: expected a text or a list of texts and images")
            for m, item in enumerate(content):
                kind = item.get("type") if isinstance(item, dict) else None
                value = item.get(kind) if isinstance(kind, str) else None
                if kind not in ("text", "image") or not isinstance(value, str):
                    raise InputError(
                        f"messages[{n}].content[{m}]: expected an object of type text with text, "
                        "or of type image with the path of an image"
                    )
                if kind == "text":
                    recognize(value, family, layout)
                elif "\0" in value:
                    raise InputError(f"messages[{n}].content[{m}].image: holds a zero byte, expected a path")
                else:
                    images.append(self.folder / value)
        return images, layout

    def _cameras(self, images: int, layout: SpelledLayout, usual: tuple[int, ...]) -> Any:
        given = self.raw.get("camera_indices")
        spelled = tuple(layout.cameras)
        if given is None:
            if spelled:
                return spelled
            if images == 1:
                return _SINGLE_CAMERA
            if images % len(usual):
                raise InputError(
                    f"camera_indices: missing, and {images} images cannot be divided over the default "
                    f"cameras {list(usual)}"
                )
            return usual
        if not isinstance(given, list):
            raise InputError(f"camera_indices: {given!r}, expected a list of camera numbers")
        if spelled and list(spelled) != given:
            raise InputError(f"camera_indices: {given}, but the messages label cameras {list(spelled)}")
        return given

    def _array(self, name: str) -> Any:
        inline, path = self.raw.get(name), self.raw.get(f"{name}_npy")
        if inline is not None and path is not None:
            raise InputError(f"{name}: given with {name}_npy, expected one of them")
        if path is None:
            return inline
        if not isinstance(path, str) or "\0" in path:
            raise InputError(f"{name}_npy: {path!r}, expected a path")
        return read_npy(self.folder / path, f"{name}_npy")

    def _text(self, name: str, spelled: str | None) -> str | None:
        given = self.raw.get(name)
        if given is None:
            return spelled
        if not isinstance(given, str):
            raise InputError(f"{name}: {given!r}, expected a text")
        if spelled is not None and spelled != given:
            raise InputError(f"{name}: {given!r}, but the messages say {spelled!r}")
        return given


def argument_name(name: str) -> str:
    """What `Sample` calls an array of the request file."""
    return name.removeprefix("ego_") if name.startswith("ego_history") else name


_FILE_NAMES = {"history_xyz": "ego_history_xyz", "history_rot": "ego_history_rot", "navigation": "nav_text"}


def in_file_names(message: str) -> str:
    """An error's sentence with the field as the request file spells it."""
    field_name, colon, rest = message.partition(":")
    return _FILE_NAMES.get(field_name, field_name) + colon + rest


@dataclass(frozen=True)
class RequestFile:
    """A parsed request file: its requests, and what was not understood at the top level."""

    requests: list[Request]
    warnings: list[str] = field(default_factory=list)


def read_request_file(path: Path) -> RequestFile:
    """Read a request file.

    Raises:
        InputError: it cannot be read, has no requests, or a default is wrong: nothing can start.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing, expected a request file") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds a JSON {type(raw).__name__}, expected an object with requests")
    entries = raw.get("requests")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: requests: expected a list with at least one request")
    defaults = {name: raw[name] for name in SETTING_NAMES if name in raw}
    try:
        Settings(**defaults)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    batch = raw.get("batch_size", 1)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"{path}: batch_size: {batch!r}, expected a whole number from 1 on")
    known = {"requests", "batch_size", *SETTING_NAMES}
    warnings = [f"{path}: {name}: unknown field, ignored" for name in raw if name not in known]
    return RequestFile(_requests(path, entries, defaults), warnings)


def _requests(path: Path, entries: list[Any], defaults: Mapping[str, Any]) -> list[Request]:
    requests: list[Request] = []
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        problem, name = None, str(i)
        if not isinstance(entry, dict):
            problem, entry = f"(itself): a JSON {type(entry).__name__}, expected an object", {}
        elif "id" in entry:
            given = entry["id"]
            if (isinstance(given, str) and given) or (isinstance(given, int) and not isinstance(given, bool)):
                name = str(given)
            else:
                problem = f"id: {given!r}, expected a text"
        if name in seen:
            problem = f"id: {name!r} occurs twice, expected distinct ids"
        seen.add(name)
        requests.append(Request(i, name, entry, path.parent, defaults, problem))
    return requests

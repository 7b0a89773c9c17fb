# SPDX-License-Identifier: Apache-2.0
"""Array files of a user: .npy histories, and prepared input in .npz or .safetensors."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from alpamayo_rt.errors import InputError
from alpamayo_rt.sample.sample import PreparedImages, Sample, as_array

_ARRAYS = (
    "pixel_values", "image_grid_thw", "camera_indices",
    "ego_history_xyz", "ego_history_rot", "ego_future_xyz", "ego_future_rot",
)  # fmt: skip
_TEXTS = ("nav_text", "question", "task")

UNREADABLE_NPZ = (
    OSError, ValueError, EOFError, KeyError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error,
    TypeError,  # one bare array is no context manager
)  # fmt: skip
"""What numpy raises, as a context manager, for a file that is no .npz archive or a damaged one."""


def read_npy(path: Path, field: str) -> np.ndarray:
    """One array of a .npy file.

    Raises:
        InputError: names `field` and the file.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{field}: {path} is missing, expected a .npy file") from None
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{field}: {path} is not a readable .npy file ({error})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError(f"{field}: {path} holds no array of numbers")
    return array


class PreparedFile:
    """A file with already preprocessed camera patches; its content is checked when a sample is made of it.

    Raises:
        InputError: the file is missing or cannot be read at all.
    """

    def __init__(self, path: Path):
        self.path = path
        self._arrays: dict[str, torch.Tensor] = {}
        self._texts: dict[str, str] = {}
        reader = _read_safetensors if path.suffix == ".safetensors" else _read_npz
        try:
            reader(path, self._arrays, self._texts)
        except FileNotFoundError:
            raise InputError(f"{path}: missing, expected prepared input (.npz or .safetensors)") from None
        except UNREADABLE_NPZ as error:
            raise InputError(f"{path}: not readable as prepared input ({error})") from None
        except SafetensorError as error:
            raise InputError(f"{path}: damaged ({error})") from None

    def sample(
        self, navigation: str | None = None, question: str | None = None, task: str | None = None
    ) -> Sample:
        """The sample; the texts given here go before those of the file.

        Raises:
            InputError: an array is missing, misshapen or not finite.
        """
        for name in ("pixel_values", "image_grid_thw", "camera_indices"):
            if name not in self._arrays:
                raise InputError(f"{name}: missing in {self.path}")
        return Sample(
            None,
            self._arrays["camera_indices"],
            self._arrays.get("ego_history_xyz"),
            self._arrays.get("ego_history_rot"),
            navigation if navigation is not None else self._texts.get("nav_text"),
            question if question is not None else self._texts.get("question"),
            PreparedImages(self._arrays["pixel_values"], self._arrays["image_grid_thw"]),
            task if task is not None else self._texts.get("task"),
            self._arrays.get("ego_future_xyz"),
            self._arrays.get("ego_future_rot"),
        )


def _read_npz(path: Path, arrays: dict[str, torch.Tensor], texts: dict[str, str]) -> None:
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            if name in _ARRAYS:
                arrays[name] = as_array(archive[name], name)
            elif name in _TEXTS:
                texts[name] = str(archive[name].item())


def _read_safetensors(path: Path, arrays: dict[str, torch.Tensor], texts: dict[str, str]) -> None:
    if not path.exists():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as file:
        arrays.update({name: file.get_tensor(name) for name in file.keys() if name in _ARRAYS})  # noqa: SIM118
        metadata = file.metadata() or {}
        texts.update({name: metadata[name] for name in _TEXTS if name in metadata})

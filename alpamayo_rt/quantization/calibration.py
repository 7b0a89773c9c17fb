# SPDX-License-Identifier: Apache-2.0
"""How large the inputs of the linear layers get on real clips: what static activation scales are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.errors import InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.quantization.parts import check_parts, parts_of
from alpamayo_rt.sample.sample import Sample


@dataclass(frozen=True)
class Calibration:
    """What was measured, on which weights and clips.

    Attributes:
        model_hash: `Checkpoint.fingerprint` of the weights.
        clips: names of the clips, in their order.
        activation_amax: module name of a linear layer in `Network` → the largest magnitude of its input.
    """

    model_hash: str
    clips: tuple[str, ...]
    activation_amax: dict[str, float]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        value = {
            "model_hash": self.model_hash,
            "clips": list(self.clips),
            "activation_amax": self.activation_amax,
        }
        write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())

    def check_model(self, model_hash: str) -> None:
        """Refuse weights that these figures were not measured on.

        Raises:
            InputError: names both hashes.
        """
        if self.model_hash != model_hash:
            raise InputError(
                f"calibration: measured on weights {self.model_hash}, expected those of {model_hash}"
            )

    def amax(self, linear: str) -> float:
        """The largest input magnitude of a layer.

        Raises:
            InputError: it was not measured.
        """
        try:
            return self.activation_amax[linear]
        except KeyError:
            part = linear.split(".")[0]
            raise InputError(
                f"calibration: nothing on {linear}, expected one made with --parts that name {part}"
            ) from None


def read_calibration(path: Path) -> Calibration:
    """Read what `Calibration.save` wrote.

    Raises:
        InputError: the file is missing or something else; says which field is wrong.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing, expected a calibration file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    model_hash, clips, amax = (value.get(name) for name in ("model_hash", "clips", "activation_amax"))
    if not isinstance(model_hash, str) or not model_hash:
        raise InputError(f"{path}: model_hash {model_hash!r}, expected the hash of the weights")
    if not isinstance(clips, list) or not all(isinstance(clip, str) for clip in clips):
        raise InputError(f"{path}: clips {clips!r}, expected a list of names")
    if not isinstance(amax, dict) or not amax:
        raise InputError(f"{path}: activation_amax missing, expected an object of layers and magnitudes")
    for name, entry in amax.items():
        number = isinstance(entry, int | float) and not isinstance(entry, bool)
        if not number or not 0 <= entry < math.inf:
            raise InputError(f"{path}: activation_amax.{name}: {entry!r}, expected a magnitude")
    return Calibration(model_hash, tuple(clips), {name: float(entry) for name, entry in amax.items()})


@contextmanager
def watched(network: nn.Module, parts: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Record the largest input magnitude of every linear layer of `parts` while the block runs.

    Yields:
        Module name → () float32 on the layer's device; layers that have not run are not there.
    """
    largest: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            # Stays on the device: reading it here would stop the GPU at each layer.
            now = inputs[0].detach().abs().amax().float()
            largest[name] = torch.maximum(largest[name], now) if name in largest else now

        return note

    handles = [
        module.register_forward_pre_hook(hook(f"{part}.{name}"))
        for part in parts
        for name, module in network.get_submodule(part).named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def calibrate(
    model: Model,
    clips: Iterable[tuple[str, Sample]],
    parts: Iterable[str] = ("language",),
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Drive clips with the eager engine and record what its linear layers read.

    The whole of an inference counts: prompt, every sampled token, every step of every candidate. Clip n uses
    seed n, so that the same clips give the same figures.

    Args:
        model: on the eager engine, in a floating precision.
        clips: names and samples.
        parts: some of `parts.PARTS`.
        progress: called with one line a clip.

    Raises:
        InputError: no clips, an unknown part, or an engine that does not run the modules.
    """
    network = getattr(model.engine, "network", None)
    if model.engine.name != "eager" or network is None:
        raise InputError(f"engine: {model.engine.name}, expected eager for a calibration")
    if parts_of(model.engine.precision)[1]:
        raise InputError(f"precision: {model.engine.precision}, expected fp32, fp16 or bf16 for a calibration")
    names: list[str] = []
    with watched(network, check_parts(parts)) as largest:
        for n, (name, sample) in enumerate(clips):
            result = model.infer(sample, seed=n)
            names.append(name)
            if progress is not None:
                progress(f"[{n + 1}] {name}: {len(result.generated_token_ids[0])} tokens")
    if not names:
        raise InputError("clips: none, expected at least one")
    amax = {name: float(value) for name, value in largest.items()}
    bad = [name for name, value in amax.items() if not math.isfinite(value)]
    if bad:
        raise InputError(f"calibration: the input of {bad[0]} is not finite; try another precision or clip")
    return Calibration(model.checkpoint.fingerprint(), tuple(names), dict(sorted(amax.items())))

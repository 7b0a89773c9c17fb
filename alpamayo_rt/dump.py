# SPDX-License-Identifier: Apache-2.0
"""Cache dumps: what the expert was given and what it made of it, to be replayed elsewhere (docs/formats.md)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from alpamayo_rt.atomic import replacing
from alpamayo_rt.engine.hand_off import HandOff, hand_off_from_arrays
from alpamayo_rt.errors import InputError
from alpamayo_rt.inference import Model
from alpamayo_rt.prompt.prompt import Prompt
from alpamayo_rt.result import Result
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.settings import Settings

NO_TOKEN = -1
_FILE_NAME = re.compile(r"[\w][\w.+-]{0,150}")


def dump_path(folder: Path, request_id: str) -> Path:
    """The file of one request's dump.

    Raises:
        InputError: the id cannot be a file name.
    """
    if not _FILE_NAME.fullmatch(request_id):
        raise InputError(f"id: {request_id!r} cannot name a dump file, expected letters, digits, . _ + -")
    return folder / f"{request_id}.safetensors"


def write_dump(path: Path, model: Model, sample: Sample, result: Result) -> None:
    """Write the dump of a result that kept its trace, whole or not at all."""
    trace = result.trace
    assert trace is not None
    assert sample.history_xyz is not None
    assert sample.history_rot is not None
    tensors = _branch(trace.hand_off, trace.prompt, result.generated_token_ids)
    tensors |= {
        "noise": trace.noise.float(),
        "action": trace.action,
        "history_xyz": sample.history_xyz,
        "history_rot": sample.history_rot,
    }
    if trace.unguided is not None and trace.unguided_prompt is not None:
        unguided = _branch(trace.unguided, trace.unguided_prompt, result.generated_token_ids)
        tensors |= {f"unguided_{name}": tensor for name, tensor in unguided.items()}
    provenance = model.provenance()
    metadata = {
        "format": "alpamayo-rt cache dump 1",
        "model": provenance["name"],
        "hash": provenance["hash"],
        "family": provenance["family"],
        "steps": str(trace.steps),
        "guidance_weight": json.dumps(trace.guidance_weight),
        "sequence_of_candidate": json.dumps(trace.hand_off.sequences.tolist()),
        "precision": model.engine.precision,
    }
    with replacing(path) as beside:
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, beside, metadata)


def _branch(handed: HandOff, prompt: Prompt, generated: list[list[int]]) -> dict[str, torch.Tensor]:
    """The arrays of one branch; shorter sequences are filled up with zeros and NO_TOKEN."""
    cache = handed.cache
    slots = [cache.sequence_slots(sequence) for sequence in range(len(generated))]
    length = max(map(len, slots))
    layers, heads, _, dim = cache.keys.shape
    keys = cache.keys.new_zeros(layers, len(slots), heads, length, dim)
    values = torch.zeros_like(keys)
    tokens = torch.full((len(slots), length), NO_TOKEN)
    for i, row in enumerate(slots):
        keys[:, i, :, : len(row)], values[:, i, :, : len(row)] = cache.keys[:, :, row], cache.values[:, :, row]
        tokens[i, : len(row)] = torch.cat([prompt.ids, torch.tensor(generated[i], dtype=torch.long)])[
            : len(row)
        ]
    candidates, waypoints = handed.position_ids.shape[1:]
    attended = torch.ones(candidates, length + waypoints, dtype=torch.bool)
    for k, sequence in enumerate(handed.sequences.tolist()):
        attended[k, :length] = False
        attended[k, : len(slots[sequence])] = handed.attended[k, slots[sequence]].cpu()
    return {
        "keys": keys,
        "values": values,
        "tokens": tokens,
        "rope_delta": torch.full((len(slots),), cache.rope_delta),
        "expert_attended": attended,
        "expert_position_ids": handed.position_ids,
    }


@dataclass(frozen=True)
class Dump:
    """A dump read back.

    Raises:
        InputError: (from `read_dump`) the file is missing, damaged or of another shape.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    @property
    def steps(self) -> int:
        """Euler steps."""
        return int(self.metadata["steps"])

    @property
    def guidance_weight(self) -> float | None:
        """w of the guidance, or None."""
        return json.loads(self.metadata["guidance_weight"])

    def hand_off(self, model: Model, prefix: str = "") -> HandOff:
        """The stored cache as a hand-off for `model`'s engine."""
        t = {name: self.tensors[prefix + name] for name in _BRANCH}
        engine = model.engine
        sequences = json.loads(self.metadata["sequence_of_candidate"])
        return hand_off_from_arrays(
            model.config.language, t["keys"], t["values"], t["expert_attended"], t["expert_position_ids"],
            sequences, engine.device, engine.dtype,
        )  # fmt: skip


_BRANCH = ("keys", "values", "tokens", "rope_delta", "expert_attended", "expert_position_ids")
_KINDS = {"expert_attended": torch.bool, "expert_position_ids": torch.int64}
_OTHERS = ("noise", "action", "history_xyz", "history_rot")


def read_dump(path: Path) -> Dump:
    """Read a dump and check that its parts fit together.

    Raises:
        InputError: the file is missing, damaged, or no dump.
    """
    if not path.is_file():
        raise InputError(f"{path}: missing, expected a cache dump")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or no cache dump ({error})") from None
    branches = ["", "unguided_"] if metadata.get("guidance_weight", "null") != "null" else [""]
    wanted = [prefix + name for prefix in branches for name in _BRANCH] + list(_OTHERS)
    for name in wanted:
        if name not in tensors:
            raise InputError(f"{path}: tensor {name} is missing, expected a cache dump")
    for name in ("steps", "guidance_weight", "sequence_of_candidate", "family", "hash"):
        if name not in metadata:
            raise InputError(f"{path}: metadata {name} is missing, expected a cache dump")
    _check_shapes(path, tensors, metadata, branches)
    return Dump(path, tensors, metadata)


def _check_shapes(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], branches: list[str]
) -> None:
    candidates, waypoints = tensors["noise"].shape[:2] if tensors["noise"].ndim == 3 else (0, 0)
    try:
        sequences = [int(s) for s in json.loads(metadata["sequence_of_candidate"])]
        weight = json.loads(metadata["guidance_weight"])
        Settings(num_diffusion_steps=int(metadata["steps"]), guidance_weight=weight)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: metadata is damaged ({error})") from None
    if len(sequences) != candidates:
        raise InputError(f"{path}: metadata does not fit {candidates} candidates")
    expected: dict[str, tuple[int, ...]] = {
        "noise": (candidates, waypoints, 2),
        "action": (candidates, waypoints, 2),
    }
    expected |= {"history_xyz": (16, 3), "history_rot": (16, 3, 3)}
    for prefix in branches:
        keys = tensors[f"{prefix}keys"]
        expected[f"{prefix}keys"] = tuple(keys.shape)
        if keys.ndim != 5 or not all(0 <= s < keys.shape[1] for s in sequences):
            raise InputError(f"{path}: {prefix}keys {tuple(keys.shape)} does not fit the sequences {sequences}")
        expected[f"{prefix}values"] = tuple(keys.shape)
        expected[f"{prefix}expert_attended"] = (candidates, keys.shape[3] + waypoints)
        expected[f"{prefix}expert_position_ids"] = (3, candidates, waypoints)
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise InputError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {shape}")
        kind = _KINDS.get(name.removeprefix("unguided_"))
        if tensors[name].dtype != kind if kind else not tensors[name].is_floating_point():
            raise InputError(f"{path}: {name} has type {tensors[name].dtype}, expected {kind or 'floats'}")


def check_fits(model: Model, dump: Dump) -> None:
    """Refuse a dump that was made by a model of other sizes.

    Raises:
        InputError: names both sizes.
    """
    text = model.config.language
    for name in ("keys", "unguided_keys"):
        if name not in dump.tensors:
            continue
        layers, _, heads, _, dim = dump.tensors[name].shape
        if (layers, heads, dim) != (text.num_layers, text.num_kv_heads, text.head_dim):
            raise InputError(
                f"{dump.path}: {name} of {layers} layers, {heads} heads of {dim}, but the model has "
                f"{text.num_layers}, {text.num_kv_heads} of {text.head_dim}"
            )


def replay(model: Model, dump: Dump) -> torch.Tensor:
    """Run the expert alone on a dump: normalized actions (K, W, 2) float32.

    Raises:
        InputError: the dump was made by a model of other sizes.
    """
    check_fits(model, dump)
    weight = dump.guidance_weight
    unguided = None if weight is None else dump.hand_off(model, "unguided_")
    return model.engine.denoise(
        dump.tensors["noise"].float(),
        dump.steps,
        dump.hand_off(model),
        unguided,
        1.0 if weight is None else weight,
    ).cpu()

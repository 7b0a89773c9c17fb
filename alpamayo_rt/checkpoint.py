# SPDX-License-Identifier: Apache-2.0
"""Opens a checkpoint folder: its shards, and every tensor in its place in the network, strictly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from alpamayo_rt.config import ModelConfig, find_family, parse_model_config, read_json
from alpamayo_rt.errors import ModelError
from alpamayo_rt.hub import find_backbone, find_checkpoint
from alpamayo_rt.model.action_projection import ActionInProjection
from alpamayo_rt.model.network import ActionStatistics, Network
from alpamayo_rt.quantization.linear import QuantizedLinear
from alpamayo_rt.quantization.plan import Plan, read_plan

_FLOAT_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_AND_NARROW = "; in narrowed layers what quantization.json calls for"
_NARROW_TYPES = {torch.float8_e4m3fn: "F8_E4M3", torch.uint8: "U8", torch.float32: "F32"}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor of the checkpoint is, and what it is."""

    shard: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of values."""
        n = 1
        for size in self.shape:
            n *= size
        return n


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: configuration parsed, tensors listed, nothing loaded; `plan` of a narrowed one."""

    folder: Path
    backbone: Path
    config: ModelConfig
    tensors: dict[str, Tensor]
    plan: Plan | None

    @property
    def name(self) -> str:
        """The folder's name, for provenance."""
        return self.folder.resolve().name

    def read(self, name: str) -> torch.Tensor:
        """One tensor as it is stored, on the CPU.

        Raises:
            ModelError: it is not there or cannot be read.
        """
        return next(tensor for _, tensor in _read_tensors(self, [name], None))

    def fingerprint(self) -> str:
        """A hash of the configuration, all shards' headers and a sample of their bytes.

        Reading 16 blocks of 64 KiB a shard instead of all of it keeps this under a second for 22 GB, and still
        tells two sets of trained weights apart.
        """
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for shard in sorted({t.shard for t in self.tensors.values()}):
            path = self.folder / shard
            size = path.stat().st_size
            digest.update(f"{shard}:{size}".encode())
            with path.open("rb") as file:
                for block in range(16):
                    file.seek(size * block // 16)
                    digest.update(file.read(65536))
        return digest.hexdigest()[:16]


def open_checkpoint(model: str) -> Checkpoint:
    """Open a checkpoint from a folder or a hub id.

    Raises:
        ModelError: it is missing, gated, of an unsupported family, or its files do not fit together.
    """
    folder = find_checkpoint(model)
    raw = read_json(folder / "config.json")
    # The family is checked first: another generation may lack the fields that name a backbone.
    family = find_family(raw, folder / "config.json")
    if family.nested_config:
        config = parse_model_config(folder, raw, raw)
        return Checkpoint(folder, folder, config, _list_tensors(folder), read_plan(folder))
    name = raw.get("vlm_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(f"{folder / 'config.json'}: vlm_name_or_path {name!r}, expected a path or a hub id")
    backbone = find_backbone(name, folder)
    config = parse_model_config(folder, raw, read_json(backbone / "config.json"))
    return Checkpoint(folder, backbone, config, _list_tensors(folder), read_plan(folder))


def _list_tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index}: weight_map missing, expected tensor names and their shards")
        for name, shard in weight_map.items():
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise ModelError(f"{index}: shard {shard!r} of {name}, expected a file name in the same folder")
    else:
        if not (folder / "model.safetensors").exists():
            raise ModelError(f"{folder}: neither model.safetensors nor model.safetensors.index.json is there")
        weight_map = None
    shards = sorted(set(weight_map.values())) if weight_map else ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in _read_header(folder / shard).items():
            if weight_map is not None and weight_map.get(name) != shard:
                where = weight_map.get(name)
                raise ModelError(
                    f"{folder / shard}: holds tensor {name}, which the index "
                    + (f"places in {where}" if where else "does not list")
                )
            tensors[name] = tensor
    for name, shard in (weight_map or {}).items():
        if name not in tensors:
            raise ModelError(f"{folder / shard}: tensor {name} is missing, the index places it there")
    return tensors


def _read_header(path: Path) -> dict[str, Tensor]:
    # Read here rather than through safetensors because `inspect` needs types and shapes without touching data.
    if not path.exists():
        raise ModelError(f"{path}: missing, expected a shard of the checkpoint")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("its header does not fit into the file")
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if end + length + 8 != size:
            raise ValueError(f"{size} bytes, its header describes {end + length + 8}")
        return {
            name: Tensor(path.name, str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            for name, entry in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: truncated or not a safetensors file ({error})") from None


def _module_name(name: str, config: ModelConfig) -> str | None:
    for theirs, ours in config.family.tensor_prefixes:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def _slots(network: nn.Module, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Module tensor name → the tensor of the network that the checkpoint has to fill."""
    slots: dict[str, torch.Tensor] = {}
    slots.update(network.named_parameters())
    if config.family.stored_statistics:
        slots.update(network.named_buffers())
    return slots


def empty_network(checkpoint: Checkpoint) -> Network:
    """The modules without data, narrowed where the checkpoint is."""
    with torch.device("meta"):
        network = Network(checkpoint.config)
    if checkpoint.plan is not None:
        for name in checkpoint.plan.layers(network):
            linear = network.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            network.set_submodule(name, checkpoint.plan.empty(linear))
    return network


def _exact_types(network: nn.Module) -> dict[str, str]:
    """Module tensor name → the one type that it may be stored in, for those of narrowed layers."""
    return {
        f"{name}.{leaf}": _NARROW_TYPES[dtype]
        for name, module in network.named_modules()
        if isinstance(module, QuantizedLinear)
        for leaf, dtype in module.exact.items()
    }


def match_tensors(checkpoint: Checkpoint, network: nn.Module) -> dict[str, str]:
    """Map every tensor of the checkpoint to its place, both ways.

    Returns:
        Checkpoint tensor name → module tensor name.

    Raises:
        ModelError: names the missing, unexpected and misshapen tensors (up to three each).
    """
    slots, exact = _slots(network, checkpoint.config), _exact_types(network)
    placed: dict[str, str] = {}
    unexpected, misshapen, mistyped = [], [], []
    for name, tensor in checkpoint.tensors.items():
        ours = _module_name(name, checkpoint.config)
        if ours is None or ours not in slots:
            unexpected.append(name)
        elif tuple(slots[ours].shape) != tensor.shape:
            misshapen.append(f"{name} {list(tensor.shape)}, expected {list(slots[ours].shape)}")
        elif tensor.dtype != exact[ours] if ours in exact else tensor.dtype not in _FLOAT_TYPES:
            mistyped.append(f"{name} {tensor.dtype}")
        else:
            placed[name] = ours
    known = {_module_name(name, checkpoint.config) for name in checkpoint.tensors}
    missing = [checkpoint_name(slot, checkpoint.config) for slot in slots if slot not in known]
    problems = [
        f"{len(names)} tensor(s) {what}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
            ("of an unsupported type (expected F32, F16 or BF16" + _AND_NARROW * bool(exact) + ")", mistyped),
        )
        if names
    ]
    if problems:
        raise ModelError(f"{checkpoint.folder}: {'; '.join(problems)}")
    return placed


def checkpoint_name(slot: str, config: ModelConfig) -> str:
    """The released name of a tensor of `Network`."""
    # The longest of our prefixes is the most specific one: "language.lm_head." lies inside "language.".
    for theirs, ours in sorted(config.family.tensor_prefixes, key=lambda pair: -len(pair[1])):
        if slot.startswith(ours):
            return theirs + slot.removeprefix(ours)
    return slot


def load_network(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[str], None] | None = None,
    only: tuple[str, ...] = ("",),
    plan: Plan | None = None,
) -> Network:
    """Load the weights, shard by shard, tensor by tensor, straight to the device.

    Args:
        checkpoint: an opened checkpoint.
        device: where the weights go.
        dtype: their type there; statistics and frequencies stay float32 (with the values that loading in
            `dtype` gives them where the checkpoint does not store them, as the reference has them).
        progress: called with one line per shard.
        only: prefixes of the module tensors that are wanted; the others stay without data.
        plan: how linear layers are narrowed, each as soon as it is read; the checkpoint's own where it has one.

    Raises:
        ModelError: a tensor is missing, unexpected, misshapen or unreadable; or the checkpoint is narrowed and
            the caller has not asked for that.
    """
    if checkpoint.plan is not None and plan is not checkpoint.plan:
        raise ModelError(
            f"{checkpoint.folder}: holds {checkpoint.plan.precision} weights, expected a checkpoint in a "
            "floating type here; the engine eager runs it with that precision"
        )
    network = empty_network(checkpoint)
    placed = match_tensors(checkpoint, network)
    exact = _exact_types(network)
    narrowed = set(plan.layers(network)) if plan is not None and checkpoint.plan is None else set()
    materialize_buffers(network, checkpoint.config, device, dtype)
    buffers = dict(network.named_buffers())
    wanted = {name: ours for name, ours in placed.items() if ours.startswith(only)}
    for name, tensor in _read_tensors(checkpoint, wanted, progress):
        ours = placed[name]
        if ours in buffers:
            buffers[ours].copy_(tensor)
        else:
            owner, _, leaf = ours.rpartition(".")
            module = network.get_submodule(owner)
            if plan is not None and owner in narrowed and leaf == "weight":
                assert isinstance(module, nn.Linear)
                network.set_submodule(owner, plan.convert(owner, module, tensor.to(device)))
                continue
            value = tensor.to(device) if ours in exact else tensor.to(device=device, dtype=dtype)
            module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLinear) and not module.weight_scale.is_meta:
            module.check(name)
    return network.eval()


def materialize_buffers(
    network: Network, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> None:
    """Statistics and frequencies as float32; rounded to `dtype` where the checkpoint does not store them."""
    fresh = nn.Module()
    fresh.action_space = ActionStatistics(config.action_space)
    fresh.expert = nn.Module()
    fresh.expert.action_in_proj = ActionInProjection(config.action_in, 1)
    for name, value in fresh.named_buffers():
        owner, _, leaf = name.rpartition(".")
        network.get_submodule(owner).register_buffer(leaf, value.to(dtype).float().to(device))


def _read_tensors(
    checkpoint: Checkpoint, names: Iterable[str], progress: Callable[[str], None] | None
) -> Iterator[tuple[str, torch.Tensor]]:
    shards: dict[str, list[str]] = {}
    for name in names:
        shards.setdefault(checkpoint.tensors[name].shard, []).append(name)
    for i, (shard, members) in enumerate(sorted(shards.items())):
        path = checkpoint.folder / shard
        if progress is not None:
            progress(f"loading {shard} ({i + 1} of {len(shards)})")
        try:
            with safe_open(path, framework="pt") as file:
                for name in members:
                    yield name, file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot be read ({error})") from None

# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is made of and what running it takes, from its headers alone."""

from __future__ import annotations

import math
from typing import Any

import torch

from alpamayo_rt.checkpoint import Checkpoint, empty_network, match_tensors
from alpamayo_rt.config import ModelConfig
from alpamayo_rt.model.network import Network
from alpamayo_rt.prompt.images import smart_resize
from alpamayo_rt.prompt.layout import prompt_text
from alpamayo_rt.prompt.tokenizer import IMAGE_PAD, PromptTokenizer
from alpamayo_rt.quantization.memory import weight_bytes, weights_in
from alpamayo_rt.quantization.plan import Plan

_FRAMES, _HEIGHT, _WIDTH = 4, 1080, 1920
_TOKENS, _CANDIDATES = 256, 6
CARDS_GIB = {"80 GB": 78.0, "48 GB": 44.0, "40 GB": 39.0, "24 GB": 22.5}
"""Cards, and what of each is left for a model once the driver and the libraries have had theirs."""
_PARTS = ("vision", "language", "expert", "action_space")


def inspect_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Parts, sizes, token ids, action statistics, memory per precision, as plain values.

    Raises:
        ModelError: tensors are missing, unexpected or misshapen, or the tokenizer does not fit.
    """
    config = checkpoint.config
    network = empty_network(checkpoint)
    placed = match_tensors(checkpoint, network)
    tokenizer = PromptTokenizer(checkpoint.backbone, config)
    parts: dict[str, dict[str, int]] = {}
    for name, ours in placed.items():
        part = parts.setdefault(ours.split(".")[0], {"tensors": 0, "parameters": 0})
        part["tensors"] += 1
        part["parameters"] += weights_in(network, ours, checkpoint.tensors[name].numel)
    prompt_tokens = _prompt_tokens(config, tokenizer, config.family.tasks[0].cameras)
    return {
        "name": checkpoint.name,
        "hash": checkpoint.fingerprint(),
        "shards": len({tensor.shard for tensor in checkpoint.tensors.values()}),
        "stored_types": sorted({tensor.dtype for tensor in checkpoint.tensors.values()}),
        "token_ids": _token_ids(config, tokenizer),
        "action_statistics": _statistics(checkpoint),
        "narrowed": _narrowed(checkpoint),
        **_described(config, network, checkpoint.plan, parts, prompt_tokens),
    }


def inspect_sizes(config: ModelConfig, prompt_tokens: int) -> dict[str, Any]:
    """Parts, sizes and memory per precision of a model that is not here.

    Args:
        config: its sizes.
        prompt_tokens: of the usual request.
    """
    with torch.device("meta"):
        network = Network(config)
    parts: dict[str, dict[str, int]] = {}
    for name, parameter in network.named_parameters():
        part = parts.setdefault(name.split(".")[0], {"tensors": 0, "parameters": 0})
        part["tensors"] += 1
        part["parameters"] += parameter.numel()
    return _described(config, network, None, parts, prompt_tokens)


def _described(
    config: ModelConfig,
    network: Network,
    plan: Plan | None,
    parts: dict[str, dict[str, int]],
    prompt_tokens: int,
) -> dict[str, Any]:
    cameras = config.family.tasks[0].cameras
    parameters = sum(part["parameters"] for part in parts.values())
    return {
        "family": config.family.model_type,
        "title": config.family.title,
        "parts": {name: parts[name] for name in _PARTS if name in parts},
        "parameters": parameters,
        "sizes": _sizes(config),
        "images": {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels},
        "default_input": {
            "images": f"{len(cameras)} × {_FRAMES} of {_HEIGHT}×{_WIDTH}",
            "resized": list(smart_resize(_HEIGHT, _WIDTH, config.min_pixels, config.max_pixels)),
            "prompt_tokens": prompt_tokens,
        },
        "tasks": {
            task.name: {"cameras": list(task.cameras), "max_generate_length": task.limit}
            for task in config.family.tasks
        },
        "guidance_weight": config.guidance_weight,
        "cards_gib": CARDS_GIB,
        "memory_gib": memory_gib(config, network, plan, parameters, prompt_tokens),
    }


def memory_gib(
    config: ModelConfig, network: Network, plan: Plan | None, parameters: int, prompt_tokens: int
) -> dict[str, dict[str, Any]]:
    """What running six candidates takes in GiB, by precision, and on which cards it fits.

    Args:
        config: its sizes.
        network: without data, narrowed where the checkpoint is.
        plan: of a narrowed checkpoint.
        parameters: number of weights of the model.
        prompt_tokens: of the usual request.

    Returns:
        Precision → weights, cache, working, total, guided_total (with the second cache of guidance) and `fits`:
        for each of `CARDS_GIB` "guided", "plain" (without guidance only) or None.
    """
    sizes = weight_bytes(plan, network, parameters).items()
    found = {name: _memory(config, size, prompt_tokens, itemsize) for name, (size, itemsize) in sizes}
    return {name: needed | {"fits": _fits(needed)} for name, needed in found.items()}


def _fits(needed: dict[str, float]) -> dict[str, str | None]:
    return {
        card: "guided" if needed["guided_total"] <= room else "plain" if needed["total"] <= room else None
        for card, room in CARDS_GIB.items()
    }


def _narrowed(checkpoint: Checkpoint) -> dict[str, Any] | None:
    plan = checkpoint.plan
    if plan is None:
        return None
    return {"precision": plan.precision, "parts": list(plan.parts), "static": plan.static}


def _sizes(config: ModelConfig) -> dict[str, dict[str, int]]:
    def decoder(name: str) -> dict[str, int]:
        text = getattr(config, name)
        return {
            "layers": text.num_layers,
            "hidden": text.hidden_size,
            "heads": text.num_heads,
            "kv_heads": text.num_kv_heads,
            "head_dim": text.head_dim,
            "mlp": text.intermediate_size,
        }

    vision = config.vision
    return {
        "vision": {
            "layers": vision.depth,
            "hidden": vision.hidden_size,
            "heads": vision.num_heads,
            "mlp": vision.intermediate_size,
            "out": vision.out_hidden_size,
        },
        "language": decoder("language") | {"vocabulary": config.language.vocab_size},
        "expert": decoder("expert") | {"waypoints": config.action_space.n_waypoints},
    }


def _token_ids(config: ModelConfig, tokenizer: PromptTokenizer) -> dict[str, int]:
    return {
        "<i0>": config.traj_token_start,
        "first history bin": config.history.first_id,
        "<|traj_history|>": tokenizer.history,
        "<|traj_future_start|>": tokenizer.future_start,
        IMAGE_PAD: tokenizer.image_pad,
        "end of text": config.language.eos_token_id,
    }


def _statistics(checkpoint: Checkpoint) -> dict[str, Any]:
    """Statistics that inference uses (stored tensors before the config) and the bounds."""
    space, stored = checkpoint.config.action_space, checkpoint.config.family.stored_statistics

    def value(name: str) -> float:
        return float(checkpoint.read(f"action_space.{name}")) if stored else getattr(space, name)

    return {
        "acceleration": {
            "mean": value("accel_mean"),
            "std": value("accel_std"),
            "bounds": list(space.accel_bounds),
        },
        "curvature": {
            "mean": value("curvature_mean"),
            "std": value("curvature_std"),
            "bounds": list(space.curvature_bounds),
        },
        "stored_in_checkpoint": stored,
    }


def _prompt_tokens(config: ModelConfig, tokenizer: PromptTokenizer, cameras: tuple[int, ...]) -> int:
    text = prompt_text(config, cameras, _FRAMES)
    rows, columns = smart_resize(_HEIGHT, _WIDTH, config.min_pixels, config.max_pixels)
    side = config.vision.patch_size * config.vision.merge_size
    images = len(cameras) * _FRAMES
    return len(tokenizer.encode(text)) + images * ((rows // side) * (columns // side) - 1)


def _memory(config: ModelConfig, weights: int, prompt_tokens: int, itemsize: int) -> dict[str, float]:
    """GiB of weights, of the cache for the default input, and of the largest tensors besides."""
    text = config.language
    per_token = 2 * text.num_layers * text.num_kv_heads * text.head_dim * itemsize
    slots = prompt_tokens + _TOKENS + _CANDIDATES * config.action_space.n_waypoints
    working = prompt_tokens * (3 * text.intermediate_size + 4 * text.hidden_size) * itemsize
    working += 4 * config.vision.intermediate_size * prompt_tokens * config.vision.merge_size**2 * itemsize
    gib = {"weights": weights, "cache": per_token * slots, "working": working}
    out = {name: round(size / 2**30, 3) for name, size in gib.items()}
    total = sum(gib.values())
    for name, size in (("total", total), ("guided_total", total + gib["cache"])):
        out[name] = math.ceil(size / 2**30 * 1000) / 1000
    return out

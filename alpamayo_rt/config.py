# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's `config.json` and its backbone's `config.json` say, as frozen dataclasses.

The files name Python classes (`_target_`); these are never imported, only their arguments are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpamayo_rt.config_fields import Fields
from alpamayo_rt.config_parts import flat_parts, nested_parts
from alpamayo_rt.errors import ModelError
from alpamayo_rt.families import FAMILIES, Family


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower (Qwen3-VL)."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_layers: tuple[int, ...]
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    merge_size: int = 2


@dataclass(frozen=True)
class TextConfig:
    """A decoder of the Qwen3-VL text architecture: the language model's or the expert's."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    vocab_size: int
    eos_token_id: int


@dataclass(frozen=True)
class ActionInConfig:
    """The action input projection: Fourier features, then an MLP."""

    hidden_size: int
    num_enc_layers: int
    num_fourier_feats: int
    max_freq: float


@dataclass(frozen=True)
class ActionSpaceConfig:
    """Unicycle action space: statistics, bounds and the weights of the least squares."""

    n_waypoints: int
    dt: float
    accel_mean: float
    accel_std: float
    curvature_mean: float
    curvature_std: float
    accel_bounds: tuple[float, float]
    curvature_bounds: tuple[float, float]
    a_lambda: float
    a_ridge: float
    kappa_lambda: float
    kappa_ridge: float
    theta_lambda: float
    theta_ridge: float
    v_lambda: float
    v_ridge: float
    still_below: float | None = None
    """m/s; where the inverse of a trajectory is slower its curvature is zero, and elsewhere it is clamped."""


@dataclass(frozen=True)
class HistoryTokensConfig:
    """How history displacements become tokens; `from_origin`: whether the first one is from the origin."""

    first_id: int
    num_bins: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    num_tokens: int
    from_origin: bool = True


@dataclass(frozen=True)
class FutureTokensConfig:
    """How normalized (acceleration, curvature) pairs of a future become tokens."""

    first_id: int
    num_bins: int
    low: tuple[float, float]
    high: tuple[float, float]
    num_tokens: int


@dataclass(frozen=True)
class ModelConfig:
    """Everything that a checkpoint's configuration says about running it."""

    family: Family
    folder: Path
    backbone: str
    vision: VisionConfig
    language: TextConfig
    expert: TextConfig
    action_in: ActionInConfig
    action_space: ActionSpaceConfig
    history: HistoryTokensConfig
    future: FutureTokensConfig
    num_diffusion_steps: int
    guidance_weight: float | None
    """What the release guides with; nothing is guided unless a request asks."""
    min_pixels: int
    max_pixels: int
    traj_token_start: int
    traj_vocab_size: int
    traj_token_ids: Mapping[str, int]
    camera_labels: bool
    frame_labels: bool


RELEASED_MIN_PIXELS, RELEASED_MAX_PIXELS = 163_840, 196_608


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from `path`.

    Raises:
        ModelError: the file is missing, unreadable or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: missing, expected a JSON file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def find_family(raw: Mapping[str, Any], path: Path) -> Family:
    """The family that `config.json` names, or a `ModelError` that says what was found and what is supported."""
    supported = ", ".join(f"{f.model_type} ({f.title})" for f in FAMILIES.values())
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(f"{path}: model_type {model_type!r} is not supported, expected one of {supported}")
    quantization = raw.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ModelError(
            f"{path}: quantization_config {method!r} was made by another tool and is not supported, "
            f"expected unquantized weights of {supported}"
        )
    return FAMILIES[model_type]


def parse_model_config(folder: Path, raw: Mapping[str, Any], backbone_raw: Mapping[str, Any]) -> ModelConfig:
    """Combine a checkpoint's config with its backbone's.

    Args:
        folder: the checkpoint folder, for messages.
        raw: its config.json.
        backbone_raw: the config.json of the model that `vlm_name_or_path` names.

    Raises:
        ModelError: a field is missing, of the wrong kind, or asks for something that is not supported.
    """
    path = folder / "config.json"
    family = find_family(raw, path)
    top = Fields(raw, str(path))
    parts = nested_parts(top) if family.nested_config else flat_parts(top, backbone_raw)
    head, ids = parts.head, parts.token_ids
    head.expect("expert_non_causal_attention", True)
    diffusion = head.sub("diffusion_cfg")
    diffusion.expect("int_method", "euler", "euler")
    weight = diffusion.raw.get("inference_guidance_weight")
    space = replace(_action_space(head.sub("action_space_cfg")), still_below=family.still_below)
    parsed = ModelConfig(
        family=family,
        folder=folder,
        backbone=parts.backbone,
        vision=_vision(parts.vision),
        language=_text(parts.language),
        expert=_text(parts.expert),
        action_in=_action_in(head.sub("action_in_proj_cfg")),
        action_space=space,
        history=_history(top, parts.first_history_id),
        future=_future(top, parts.future, parts.first_future_id, space, family),
        num_diffusion_steps=diffusion.size("num_inference_steps", 10),
        guidance_weight=None if weight is None else diffusion.number("inference_guidance_weight"),
        min_pixels=top.whole("min_pixels", RELEASED_MIN_PIXELS),
        max_pixels=top.whole("max_pixels", RELEASED_MAX_PIXELS),
        traj_token_start=min(parts.first_history_id, parts.first_future_id),
        traj_vocab_size=top.size("traj_vocab_size"),
        traj_token_ids=ids,
        camera_labels=family.labels_images and bool(raw.get("include_camera_ids", True)),
        frame_labels=family.labels_images and bool(raw.get("include_frame_nums", True)),
    )
    _check(parsed, path)
    return parsed


def _check(config: ModelConfig, path: Path) -> None:
    language, expert = config.language, config.expert
    for name in ("num_layers", "num_kv_heads", "head_dim"):
        if getattr(language, name) != getattr(expert, name):
            raise ModelError(
                f"{path}: the expert's {name} {getattr(expert, name)} differs from the language model's "
                f"{getattr(language, name)}, whose cache it reads"
            )
    if config.vision.out_hidden_size != language.hidden_size:
        raise ModelError(
            f"{path}: the vision tower gives {config.vision.out_hidden_size} values a token, "
            f"the language model takes {language.hidden_size}"
        )
    taps = config.vision.deepstack_layers
    if len(set(taps)) != len(taps) or any(tap >= config.vision.depth for tap in taps):
        raise ModelError(
            f"{path}: deepstack_visual_indexes {list(taps)}, "
            f"expected distinct numbers below the tower's depth {config.vision.depth}"
        )
    if not 0 < config.min_pixels <= config.max_pixels:
        raise ModelError(
            f"{path}: min_pixels {config.min_pixels} and max_pixels {config.max_pixels} allow no image"
        )


def _vision(f: Fields) -> VisionConfig:
    f.expect("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    return VisionConfig(
        depth=f.size("depth"),
        hidden_size=f.size("hidden_size"),
        num_heads=f.size("num_heads"),
        intermediate_size=f.size("intermediate_size"),
        out_hidden_size=f.size("out_hidden_size"),
        num_position_embeddings=f.size("num_position_embeddings"),
        deepstack_layers=f.wholes("deepstack_visual_indexes"),
        in_channels=f.size("in_channels", 3),
        patch_size=f.size("patch_size"),
        temporal_patch_size=f.size("temporal_patch_size"),
        merge_size=f.size("spatial_merge_size"),
    )


def _text(f: Fields) -> TextConfig:
    f.expect("hidden_act", "silu", "silu")
    f.expect("attention_bias", False, False)
    # Newer configs keep everything about rotary positions in one object.
    name = "rope_parameters" if f.raw.get("rope_parameters") else "rope_scaling"
    rope = f.sub(name)
    section = rope.wholes("mrope_section")
    if len(section) != 3:
        raise ModelError(f"{rope.where}.mrope_section: {list(section)}, expected three numbers")
    rope.expect("mrope_interleaved", True, True)
    theta = (f if f.raw.get("rope_theta") is not None else rope).number("rope_theta")
    return TextConfig(
        num_layers=f.size("num_hidden_layers"),
        hidden_size=f.size("hidden_size"),
        num_heads=f.size("num_attention_heads"),
        num_kv_heads=f.size("num_key_value_heads"),
        head_dim=f.size("head_dim"),
        intermediate_size=f.size("intermediate_size"),
        rms_norm_eps=f.number("rms_norm_eps"),
        rope_theta=theta,
        mrope_section=(section[0], section[1], section[2]),
        vocab_size=f.size("vocab_size"),
        eos_token_id=f.whole("eos_token_id"),
    )


def _action_in(f: Fields) -> ActionInConfig:
    return ActionInConfig(
        hidden_size=f.size("hidden_size"),
        num_enc_layers=f.size("num_enc_layers"),
        num_fourier_feats=f.size("num_fourier_feats"),
        max_freq=f.number("max_freq"),
    )


def _action_space(f: Fields) -> ActionSpaceConfig:
    accel, curvature = f.numbers("accel_bounds", 2), f.numbers("curvature_bounds", 2)
    numbers = {
        name: f.number(name)
        for name in (
            "dt", "accel_mean", "accel_std", "curvature_mean", "curvature_std", "a_lambda", "a_ridge",
            "kappa_lambda", "kappa_ridge", "theta_lambda", "theta_ridge", "v_lambda", "v_ridge",
        )
    }  # fmt: skip
    return ActionSpaceConfig(
        n_waypoints=f.size("n_waypoints"),
        accel_bounds=(accel[0], accel[1]),
        curvature_bounds=(curvature[0], curvature[1]),
        **numbers,
    )


def _history(top: Fields, first_id: int) -> HistoryTokensConfig:
    f = top.sub("hist_traj_tokenizer_cfg")
    f.expect("predict_yaw", False, False)
    low, high = f.numbers("ego_xyz_min", 3, (-4, -4, -10)), f.numbers("ego_xyz_max", 3, (4, 4, 10))
    return HistoryTokensConfig(
        first_id=first_id,
        num_bins=f.size("num_bins", 1000),
        low=(low[0], low[1], low[2]),
        high=(high[0], high[1], high[2]),
        num_tokens=top.size("tokens_per_history_traj"),
        from_origin=bool(f.raw.get("pad_origin_at_beginning", True)),
    )


def _future(
    top: Fields, f: Fields, first_id: int, space: ActionSpaceConfig, family: Family
) -> FutureTokensConfig:
    if any(task.needs_future for task in family.tasks) and f.raw.get("action_space_cfg") is not None:
        own = _action_space(f.sub("action_space_cfg"))
        if replace(own, still_below=space.still_below) != space:
            raise ModelError(f"{f.where}.action_space_cfg: differs from the expert's, expected the same")
    low, high = f.numbers("dims_min", 2, (-10, -10)), f.numbers("dims_max", 2, (10, 10))
    return FutureTokensConfig(
        first_id=first_id,
        num_bins=f.size("num_bins"),
        low=(low[0], low[1]),
        high=(high[0], high[1]),
        num_tokens=top.size("tokens_per_future_traj", 2 * space.n_waypoints),
    )

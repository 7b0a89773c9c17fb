# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's `config.json` and its backbone's `config.json` say, as frozen dataclasses.

The files name Python classes (`_target_`); these are never imported, only their arguments are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

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


@dataclass(frozen=True)
class HistoryTokensConfig:
    """How history displacements become tokens."""

    first_id: int
    num_bins: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]
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
    num_diffusion_steps: int
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


def _is_number(value: object) -> TypeGuard[int | float]:
    # Comparing, unlike converting, works for integers of any size; it is false for NaN.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


class _Fields:
    """A JSON object with the name of its place, so that errors can say where a value stands."""

    def __init__(self, raw: object, where: str):
        if not isinstance(raw, Mapping):
            raise ModelError(f"{where}: {raw!r}, expected an object")
        self.raw, self.where = raw, where

    def sub(self, name: str) -> _Fields:
        return _Fields(self.raw.get(name), f"{self.where}.{name}")

    def _get(self, name: str, default: Any) -> Any:
        value = self.raw.get(name)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.where}.{name}: missing")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{self.where}.{name}: {value!r}, expected a whole number")
        return value

    def size(self, name: str, default: int | None = None) -> int:
        value = self.whole(name, default)
        if value == 0:
            raise ModelError(f"{self.where}.{name}: 0, expected a whole number from 1 on")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if not _is_number(value):
            raise ModelError(f"{self.where}.{name}: {value!r}, expected a number")
        return float(value)

    def numbers(self, name: str, n: int, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or len(value) != n or not all(map(_is_number, value)):
            raise ModelError(f"{self.where}.{name}: {value!r}, expected {n} numbers")
        return tuple(float(v) for v in value)

    def wholes(self, name: str) -> tuple[int, ...]:
        value = self._get(name, None)
        if not isinstance(value, list) or not all(type(v) is int and v >= 0 for v in value):
            raise ModelError(f"{self.where}.{name}: {value!r}, expected a list of whole numbers")
        return tuple(value)

    def expect(self, name: str, wanted: object, default: object = None) -> None:
        value = self.raw.get(name, default)
        if value != wanted:
            raise ModelError(f"{self.where}.{name}: {value!r} is not supported, expected {wanted!r}")


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
    top = _Fields(raw, str(path))
    top.expect("add_special_tokens", True)
    top.expect("expert_non_causal_attention", True)
    diffusion = top.sub("diffusion_cfg")
    diffusion.expect("int_method", "euler", "euler")
    vlm = _Fields(backbone_raw, f"{raw.get('vlm_name_or_path')}/config.json")
    text = dict(vlm.sub("text_config").raw)
    text["vocab_size"] = top.size("vocab_size")
    expert = text | dict(top.sub("expert_cfg").raw)
    space = _action_space(top.sub("action_space_cfg"))
    traj_start = top.whole("traj_token_start_idx")
    ids = {name: value for name, value in top.sub("traj_token_ids").raw.items() if isinstance(value, int)}
    parsed = ModelConfig(
        family=family,
        folder=folder,
        backbone=str(raw.get("vlm_name_or_path")),
        vision=_vision(vlm.sub("vision_config")),
        language=_text(_Fields(text, f"{vlm.where}.text_config")),
        expert=_text(_Fields(expert, f"{top.where}.expert_cfg")),
        action_in=_action_in(top.sub("action_in_proj_cfg")),
        action_space=space,
        history=_history(top, traj_start),
        num_diffusion_steps=diffusion.size("num_inference_steps", 10),
        min_pixels=top.whole("min_pixels", RELEASED_MIN_PIXELS),
        max_pixels=top.whole("max_pixels", RELEASED_MAX_PIXELS),
        traj_token_start=traj_start,
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


def _vision(f: _Fields) -> VisionConfig:
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


def _text(f: _Fields) -> TextConfig:
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


def _action_in(f: _Fields) -> ActionInConfig:
    return ActionInConfig(
        hidden_size=f.size("hidden_size"),
        num_enc_layers=f.size("num_enc_layers"),
        num_fourier_feats=f.size("num_fourier_feats"),
        max_freq=f.number("max_freq"),
    )


def _action_space(f: _Fields) -> ActionSpaceConfig:
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


def _history(top: _Fields, traj_start: int) -> HistoryTokensConfig:
    f = top.sub("hist_traj_tokenizer_cfg")
    f.expect("predict_yaw", False, False)
    low, high = f.numbers("ego_xyz_min", 3, (-4, -4, -10)), f.numbers("ego_xyz_max", 3, (4, 4, 10))
    # The bins of the future come first in the trajectory vocabulary, those of the history after them.
    return HistoryTokensConfig(
        first_id=traj_start + top.sub("traj_tokenizer_cfg").size("num_bins"),
        num_bins=f.size("num_bins", 1000),
        low=(low[0], low[1], low[2]),
        high=(high[0], high[1], high[2]),
        num_tokens=top.size("tokens_per_history_traj"),
    )

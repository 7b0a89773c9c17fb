# SPDX-License-Identifier: Apache-2.0
"""The configuration of a release, from its sizes alone: what its config.json says, without having it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alpamayo_rt.config import ModelConfig, parse_model_config
from alpamayo_rt.errors import ModelError
from alpamayo_rt.families import FAMILIES, Family
from alpamayo_rt.sizes import DecoderSizes, ReleasedSizes

# Ids of the Qwen3-VL tokenizer, over which every family's own tokens begin.
END_OF_TURN, VISION_START, VISION_END, IMAGE_PAD = 151_645, 151_652, 151_653, 151_655
FIRST_TRAJECTORY_ID, TRAJECTORY_IDS, HISTORY_BINS = 151_669, 4000, 1000


def find_released(model_type: str) -> tuple[Family, ReleasedSizes]:
    """A family by its `model_type`, and its released sizes.

    Raises:
        ModelError: there is none, or its sizes are not known.
    """
    family = FAMILIES.get(model_type)
    if family is None or family.released is None:
        known = ", ".join(f.model_type for f in FAMILIES.values() if f.released is not None)
        raise ModelError(f"family: {model_type!r}, expected one of {known}")
    return family, family.released


def usual_tokens(sizes: ReleasedSizes, frames: int = 4, image_tokens: int = 180) -> int:
    """Prompt tokens of the usual driving request."""
    return len(sizes.cameras) * frames * image_tokens + sizes.text_tokens


def special_id(family: Family, name: str) -> int:
    """The id of one of the family's own tokens, in the release."""
    return FIRST_TRAJECTORY_ID + TRAJECTORY_IDS + family.special_tokens.index(name)


def released_config(family: Family, sizes: ReleasedSizes) -> ModelConfig:
    """What `parse_model_config` makes of the release's config.json."""
    folder = Path(f"released sizes of {family.title}")
    raw, backbone = released_json(family, sizes)
    return parse_model_config(folder, raw, backbone)


def released_json(family: Family, sizes: ReleasedSizes) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json of the checkpoint and of its backbone (the same where it holds every part's config)."""
    vlm = {"vision_config": _vision(sizes), "text_config": _text(sizes.language, sizes.vocabulary)}
    future, history = _first_bins(sizes)
    tokens = {name: special_id(family, f"traj_{name}") for name in _MARKS}
    pads = {"history": special_id(family, "traj_history"), "future": special_id(family, "traj_future")}
    space = _action_space()
    head = {
        "action_space_cfg": space,
        "action_in_proj_cfg": {
            "hidden_size": 512, "max_freq": 100.0, "num_enc_layers": 2, "num_fourier_feats": 20,
        },
        "diffusion_cfg": {"int_method": "euler", "num_inference_steps": 10},
        "expert_non_causal_attention": True,
    }  # fmt: skip
    bins = {"num_bins": TRAJECTORY_IDS - HISTORY_BINS, "dims_min": [-10, -10], "dims_max": [10, 10]}
    top: dict[str, Any] = {
        "model_type": family.model_type,
        "traj_vocab_size": TRAJECTORY_IDS,
        "tokens_per_history_traj": sizes.history_tokens,
        "tokens_per_future_traj": 128,
    }
    if sizes.nested:
        top |= {
            "vlm_config": vlm,
            "expert_config": head | {"llm_config": _text(sizes.expert, sizes.vocabulary)},
            "traj_ids": tokens
            | {f"{name}_pad": value for name, value in pads.items()}
            | {"future_id0": future, "history_id0": history},
            "future_traj_tokenizer_cfg": bins,
            "hist_traj_tokenizer_cfg": {"pad_origin_at_beginning": False},
            "frame_label": "frame_num",
        }
        return top, top
    expert = sizes.expert
    top |= head | {
        "vlm_name_or_path": "backbone",
        "add_special_tokens": True,
        "vocab_size": sizes.vocabulary,
        "traj_token_start_idx": FIRST_TRAJECTORY_ID,
        "traj_token_ids": tokens | pads,
        "traj_tokenizer_cfg": bins,
        "hist_traj_tokenizer_cfg": {},
        "expert_cfg": {
            "head_dim": expert.head_dim, "hidden_size": expert.hidden,
            "intermediate_size": expert.intermediate, "num_attention_heads": expert.heads,
        },
    }  # fmt: skip
    return top, vlm


_MARKS = ("history_start", "history_end", "future_start", "future_end")


def _first_bins(sizes: ReleasedSizes) -> tuple[int, int]:
    """First ids of the future's and of the history's bins: which come first goes with the config's form."""
    if sizes.nested:
        return FIRST_TRAJECTORY_ID + HISTORY_BINS, FIRST_TRAJECTORY_ID
    return FIRST_TRAJECTORY_ID, FIRST_TRAJECTORY_ID + TRAJECTORY_IDS - HISTORY_BINS


def _vision(sizes: ReleasedSizes) -> dict[str, Any]:
    return {
        "depth": 27, "hidden_size": 1152, "num_heads": 16, "intermediate_size": 4304, "patch_size": 16,
        "out_hidden_size": sizes.language.hidden, "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24], "temporal_patch_size": 2, "spatial_merge_size": 2,
    }  # fmt: skip


def _text(sizes: DecoderSizes, vocabulary: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": sizes.layers, "hidden_size": sizes.hidden, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads, "head_dim": sizes.head_dim,
        "intermediate_size": sizes.intermediate, "rms_norm_eps": 1e-6, "rope_theta": 5e6,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20]},
        "vocab_size": vocabulary, "eos_token_id": END_OF_TURN,
    }  # fmt: skip


def _action_space() -> dict[str, Any]:
    return {
        "n_waypoints": 64, "dt": 0.1, "accel_bounds": [-9.8, 9.8], "curvature_bounds": [-0.33, 0.33],
        "accel_mean": 0.02902694707164455, "accel_std": 0.6810426736454882,
        "curvature_mean": 0.0002692167976330542, "curvature_std": 0.026148280660833106,
        "a_lambda": 1e-4, "a_ridge": 1e-4, "kappa_lambda": 1e-4, "kappa_ridge": 1e-4,
        "theta_lambda": 1e-6, "theta_ridge": 1e-8, "v_lambda": 1e-6, "v_ridge": 1e-4,
    }  # fmt: skip

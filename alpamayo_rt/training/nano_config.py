# SPDX-License-Identifier: Apache-2.0
"""The demo model's configuration and tokenizer, in the layout of a released 1.5 checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from alpamayo_rt.demo.arrays import CAUSES, LEADS, NAVIGATION, NEXT
from alpamayo_rt.demo.words import all_reasonings, navigation_text, questions
from alpamayo_rt.families import CAMERA_NAMES, DEMO_FAMILY

BACKBONE = "backbone"
_VOCABULARY = 800
_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# What the tokenizers of the Qwen family split at before merging: words, single digits, punctuation, blanks.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRAJECTORY_TOKENS, FUTURE_BINS = 4000, 3000
_LAYERS, _KV_HEADS, _HEAD_DIM = 6, 2, 64
_PIXELS = 128 * 224  # the demo world's images as they are


def corpus() -> list[str]:
    """Every sentence that the world can say, and the prompt's own."""
    lines = [DEMO_FAMILY.system, DEMO_FAMILY.instruction, "system\nuser\nassistant\n"]
    lines += [f"{name}: frame {n} " for name in CAMERA_NAMES for n in range(10)]
    lines *= 200  # in every prompt, so that their words become single tokens
    lines += [text for cause in CAUSES for text in all_reasonings(cause)]
    lines += [navigation_text(b, 5.0 * d, s) for b in NAVIGATION for d in range(1, 20) for s in range(64)]
    for light in (-1, 0, 1):
        for lead in range(len(LEADS)):
            for ahead in range(len(NEXT)):
                for lanes in (2, 3, 4):
                    for asked in questions(light, lead, ahead, lanes, 0, everything=True):
                        lines += [asked["question"], asked["answer"]]
    return lines


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of the Qwen kind, trained on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    return tokenizer


def backbone_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The backbone's config.json."""
    ident = tokenizer.token_to_id
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": ident("<|image_pad|>"),
        "video_token_id": ident("<|video_pad|>"),
        "vision_start_token_id": ident("<|vision_start|>"),
        "vision_end_token_id": ident("<|vision_end|>"),
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": ident("<|endoftext|>"),
            "eos_token_id": ident("<|im_end|>"),
            "head_dim": _HEAD_DIM,
            "hidden_act": "silu",
            "hidden_size": 256,
            "intermediate_size": 704,
            "max_position_embeddings": 32768,
            "num_attention_heads": 4,
            "num_hidden_layers": _LAYERS,
            "num_key_value_heads": _KV_HEADS,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": [12, 10, 10],
                "rope_type": "default",
            },
            "rope_theta": 5000000,
            "vocab_size": tokenizer.get_vocab_size(),
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": [1, 3],
            "depth": 6,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 192,
            "in_channels": 3,
            "intermediate_size": 512,
            "num_heads": 3,
            "num_position_embeddings": 256,
            "out_hidden_size": 256,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def model_config(tokenizer: Tokenizer, statistics: dict[str, float]) -> dict[str, Any]:
    """The checkpoint's config.json.

    Args:
        tokenizer: the backbone's, without the model's own tokens.
        statistics: accel_mean, accel_std (m/s²), curvature_mean, curvature_std (1/m) of the training data.
    """
    first = tokenizer.get_vocab_size()
    package = DEMO_FAMILY.model_type  # the released files name the reference's classes; they are never imported
    special = {name: first + TRAJECTORY_TOKENS + i for i, name in enumerate(DEMO_FAMILY.special_tokens)}
    space = {
        "_target_": f"{package}.action_space.UnicycleAccelCurvatureActionSpace",
        "n_waypoints": 64, "dt": 0.1, "accel_bounds": [-9.8, 9.8], "curvature_bounds": [-0.33, 0.33],
        **statistics,
        "a_lambda": 1e-4, "a_ridge": 1e-4, "kappa_lambda": 1e-4, "kappa_ridge": 1e-4,
        "theta_lambda": 1e-6, "theta_ridge": 1e-8, "v_lambda": 1e-6, "v_ridge": 1e-4,
    }  # fmt: skip
    return {
        "model_type": DEMO_FAMILY.model_type,
        "architectures": ["Alpamayo1_5"],
        "dtype": "bfloat16",
        "model_dtype": "bfloat16",
        "attn_implementation": "sdpa",
        "vlm_backend": "qwenvl3",
        "vlm_name_or_path": BACKBONE,
        "add_special_tokens": True,
        "include_camera_ids": True,
        "include_frame_nums": True,
        "keep_same_dtype": True,
        "expert_non_causal_attention": True,
        "min_pixels": _PIXELS,
        "max_pixels": _PIXELS,
        "vocab_size": first + TRAJECTORY_TOKENS + len(special),
        "traj_vocab_size": TRAJECTORY_TOKENS,
        "traj_token_start_idx": first,
        "traj_token_ids": {
            name: special[f"traj_{name}"]
            for name in ("history", "future", "history_start", "future_start", "history_end", "future_end")
        },
        "tokens_per_history_traj": 48,
        "tokens_per_future_traj": 128,
        "action_space_cfg": space,
        "action_in_proj_cfg": {
            "_target_": f"{package}.models.action_in_proj.PerWaypointActionInProjV2",
            "hidden_size": 256, "max_freq": 100.0, "num_enc_layers": 2, "num_fourier_feats": 20,
        },
        "action_out_proj_cfg": {"_target_": "torch.nn.Linear"},
        "diffusion_cfg": {
            "_target_": f"{package}.diffusion.flow_matching.FlowMatching",
            "int_method": "euler", "num_inference_steps": 10,
        },
        "hist_traj_tokenizer_cfg": {"_target_": f"{package}.models.delta_tokenizer.DeltaTrajectoryTokenizer"},
        "traj_tokenizer_cfg": {
            "_target_": f"{package}.action_space.discrete_action_space.DiscreteTrajectoryTokenizer",
            "_recursive_": False, "action_space_cfg": space,
            "dims_max": [10, 10], "dims_min": [-10, -10], "num_bins": FUTURE_BINS,
        },
        "expert_cfg": {
            "head_dim": _HEAD_DIM, "hidden_size": 160, "intermediate_size": 448, "num_attention_heads": 4,
        },
    }  # fmt: skip


def write_skeleton(folder: Path, statistics: dict[str, float]) -> None:
    """Everything of a checkpoint but its weights: configs and tokenizer."""
    tokenizer = build_tokenizer()
    backbone = folder / BACKBONE
    backbone.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(backbone / "tokenizer.json"))
    for path, content in (
        (backbone / "config.json", backbone_config(tokenizer)),
        (folder / "config.json", model_config(tokenizer, statistics)),
    ):
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

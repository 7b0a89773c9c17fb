# SPDX-License-Identifier: Apache-2.0
"""The files that the reference reads of a backbone: config, tokenizer, image processor; and its own config.

The tokenizer is the demo model's, which has the special tokens of the real one and fewer words: the ids are
others, the work is the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from alpamayo_rt.config import RELEASED_MAX_PIXELS, RELEASED_MIN_PIXELS
from alpamayo_rt.hub import find_checkpoint

_TURN = "'<|im_start|>' + message.role + '\\n'"
_CONTENT = (
    "{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}"
)
CHAT_TEMPLATE = (
    f"{{% for message in messages %}}{{{{ {_TURN} }}}}{_CONTENT}{{{{ '<|im_end|>\\n' }}}}{{% endfor %}}"
)
_VISION_TOKENS = {"image_token_id": "image_pad", "vision_start_token_id": "vision_start",
                  "vision_end_token_id": "vision_end", "video_token_id": "video_pad"}  # fmt: skip


def write_backbone(folder: Path, backbone: dict[str, Any]) -> None:
    """Write the backbone's folder as its library expects it.

    Args:
        folder: exists.
        backbone: `vision_config` and `text_config`.
    """
    source = find_checkpoint("nano") / "backbone" / "tokenizer.json"
    shutil.copyfile(source, folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(source))

    def id_of(name: str) -> int:
        found = tokenizer.token_to_id(f"<|{name}|>")
        assert found is not None, name
        return found

    text = backbone["text_config"] | {
        "model_type": "qwen3_vl_text",
        "hidden_act": "silu",
        "attention_bias": False,
        "eos_token_id": id_of("im_end"),
        "bos_token_id": id_of("endoftext"),
        "rope_scaling": backbone["text_config"]["rope_scaling"] | {"rope_type": "default"},
        "max_position_embeddings": 262_144,
    }
    vision = backbone["vision_config"] | {"model_type": "qwen3_vl", "hidden_act": "gelu_pytorch_tanh"}
    _write(
        folder / "config.json",
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "tie_word_embeddings": False,
            "text_config": text,
            "vision_config": vision,
            **{field: id_of(name) for field, name in _VISION_TOKENS.items()},
        },
    )
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2TokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    pixels = {
        "do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 3,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": vision["patch_size"],
        "temporal_patch_size": 2, "merge_size": 2, "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": RELEASED_MIN_PIXELS, "longest_edge": RELEASED_MAX_PIXELS},
    }  # fmt: skip
    _write(folder / "preprocessor_config.json", pixels | {"image_processor_type": "Qwen2VLImageProcessorFast"})
    video = pixels | {"video_processor_type": "Qwen3VLVideoProcessor"}
    _write(folder / "video_preprocessor_config.json", video)


def checkpoint_config(package: str, raw: dict[str, Any], backbone: str) -> dict[str, Any]:
    """config.json as the reference's configuration class takes it, with the classes that it names.

    Args:
        package: of the reference.
        raw: the released config.json, without class names.
        backbone: the backbone's folder.
    """
    space = raw["action_space_cfg"] | {"_target_": f"{package}.action_space.UnicycleAccelCurvatureActionSpace"}
    discrete = f"{package}.action_space.discrete_action_space.DiscreteTrajectoryTokenizer"
    kept = ("add_special_tokens", "traj_vocab_size", "tokens_per_history_traj", "tokens_per_future_traj")
    return {name: raw[name] for name in kept} | {
        "vlm_name_or_path": backbone,
        "vlm_backend": "qwenvl3",
        "attn_implementation": "sdpa",
        "model_dtype": "bfloat16",
        "min_pixels": raw.get("min_pixels", RELEASED_MIN_PIXELS),
        "max_pixels": raw.get("max_pixels", RELEASED_MAX_PIXELS),
        "expert_cfg": raw["expert_cfg"],
        "expert_non_causal_attention": True,
        "keep_same_dtype": True,
        "action_space_cfg": space,
        "action_in_proj_cfg": raw["action_in_proj_cfg"]
        | {"_target_": f"{package}.models.action_in_proj.PerWaypointActionInProjV2"},
        "action_out_proj_cfg": {"_target_": "torch.nn.Linear"},
        "diffusion_cfg": raw["diffusion_cfg"] | {"_target_": f"{package}.diffusion.flow_matching.FlowMatching"},
        "hist_traj_tokenizer_cfg": {"_target_": f"{package}.models.delta_tokenizer.DeltaTrajectoryTokenizer"},
        "traj_tokenizer_cfg": raw["traj_tokenizer_cfg"]
        | {"_target_": discrete, "_recursive_": False, "action_space_cfg": space},
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")

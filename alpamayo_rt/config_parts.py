# SPDX-License-Identifier: Apache-2.0
"""The two shapes of a checkpoint's config.json: over a backbone's, or with every part's config in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alpamayo_rt.config_fields import Fields


@dataclass(frozen=True)
class Parts:
    """Where a config keeps what every family has."""

    backbone: str
    vision: Fields
    language: Fields
    expert: Fields
    head: Fields
    future: Fields
    first_history_id: int
    first_future_id: int
    token_ids: dict[str, int]


def flat_parts(top: Fields, backbone_raw: Mapping[str, Any]) -> Parts:
    """All in one object, over the backbone's config."""
    top.expect("add_special_tokens", True)
    vlm = Fields(backbone_raw, f"{top.raw.get('vlm_name_or_path')}/config.json")
    text = dict(vlm.sub("text_config").raw) | {"vocab_size": top.size("vocab_size")}
    expert = text | dict(top.sub("expert_cfg").raw)
    first, future = top.whole("traj_token_start_idx"), top.sub("traj_tokenizer_cfg")
    ids = {name: value for name, value in top.sub("traj_token_ids").raw.items() if isinstance(value, int)}
    return Parts(
        backbone=str(top.raw.get("vlm_name_or_path")),
        vision=vlm.sub("vision_config"),
        language=Fields(text, f"{vlm.where}.text_config"),
        expert=Fields(expert, f"{top.where}.expert_cfg"),
        head=top,
        future=future,
        # The bins of the future come first in the trajectory vocabulary, those of the history after them.
        first_history_id=first + future.size("num_bins"),
        first_future_id=first,
        token_ids=ids,
    )


def nested_parts(top: Fields) -> Parts:
    """One object a part, each complete."""
    top.expect("frame_label", "frame_num", "frame_num")
    top.expect("enable_expert", True, True)
    vlm, head, ids = top.sub("vlm_config"), top.sub("expert_config"), top.sub("traj_ids")
    names = ("history_start", "history_end", "future_start", "future_end")
    # `<|traj_history|>` and `<|traj_future|>` are called after what they are for.
    pads = {"history": ids.whole("history_pad"), "future": ids.whole("future_pad")}
    return Parts(
        backbone=".",
        vision=vlm.sub("vision_config"),
        language=vlm.sub("text_config"),
        expert=head.sub("llm_config"),
        head=head,
        future=top.sub("future_traj_tokenizer_cfg"),
        first_history_id=ids.whole("history_id0"),
        first_future_id=ids.whole("future_id0"),
        token_ids={name: ids.whole(name) for name in names} | pads,
    )

# SPDX-License-Identifier: Apache-2.0
"""What distinguishes one model family from another, as data.

This is the only place that knows a family by name: everything else reads the fields below. A family that
comes later is one more `Family` value (and, where it needs a rule that none had, one more field).
"""

from __future__ import annotations

from dataclasses import dataclass

from alpamayo_rt.sizes import SIZES_10B, SIZES_10B_UNLABELLED, ReleasedSizes

CAMERA_NAMES = (
    "Front left camera",
    "Front camera",
    "Front right camera",
    "Rear left camera",
    "Rear camera",
    "Rear right camera",
    "Front telephoto camera",
)
"""Display names by the dataset's camera number."""


@dataclass(frozen=True)
class Family:
    """One generation of the model.

    Attributes:
        model_type: the value of `model_type` in the checkpoint's config.json.
        title: its name for people.
        hub_id: where the released weights are.
        special_tokens: names of the tokens after the trajectory bins, in id order, without `<|` and `|>`.
        labels_images: whether camera and frame labels stand before the images (the config's
            `include_camera_ids` / `include_frame_nums` may switch them off).
        takes_navigation, takes_question: whether the prompt has a place for them.
        stored_statistics: whether Fourier frequencies and action statistics are tensors of the checkpoint;
            otherwise they are computed in the type the model is loaded in.
        system, instruction: sentences of the prompt.
        driving_start, answer_start: the first token of the assistant's turn, written by the prompt.
        driving_end, answer_end: where the model says that reasoning or answer is complete.
        tensor_prefixes: (prefix in the checkpoint, prefix in our modules), the first match counts.
        released: sizes of the released checkpoint; None: nothing is known that could be timed without it.
    """

    model_type: str
    title: str
    hub_id: str
    special_tokens: tuple[str, ...]
    labels_images: bool
    takes_navigation: bool
    takes_question: bool
    stored_statistics: bool
    system: str = "You are a driving assistant that generates safe and accurate actions."
    instruction: str = (
        "output the chain-of-thought reasoning of the driving process, then output the future trajectory."
    )
    driving_start: str = "<|cot_start|>"
    driving_end: str = "<|cot_end|>"
    answer_start: str = "<|answer_start|>"
    answer_end: str = "<|answer_end|>"
    tensor_prefixes: tuple[tuple[str, str], ...] = (
        ("vlm.model.visual.", "vision."),
        ("vlm.model.language_model.", "language."),
        ("vlm.lm_head.", "language.lm_head."),
        ("expert.", "expert.decoder."),
        ("action_in_proj.", "expert.action_in_proj."),
        ("action_out_proj.", "expert.action_out_proj."),
        ("action_space.", "action_space."),
    )
    released: ReleasedSizes | None = None


# The order fixes the ids. Where 1.5 dropped a token of R1 it kept the id under a padding name.
_R1_TOKENS = (
    "prompt_start", "prompt_end", "image_start", "image_pre_tkn", "image_end",
    "traj_history_start", "traj_history_pre_tkn", "traj_history_end", "cot_start", "cot_end",
    "meta_action_start", "meta_action_end", "traj_future_start", "traj_future_pre_tkn", "traj_future_end",
    "traj_history", "traj_future",
    "vectorized_wm", "vectorized_wm_start", "vectorized_wm_end", "vectorized_wm_pre_tkn",
    "route_start", "route_pad", "route_end", "question_start", "question_end", "answer_start", "answer_end",
)  # fmt: skip
_ONLY_R1 = (
    "image_pre_tkn", "traj_history_pre_tkn", "meta_action_start", "meta_action_end", "traj_future_pre_tkn",
    "vectorized_wm", "vectorized_wm_start", "vectorized_wm_end", "vectorized_wm_pre_tkn",
)  # fmt: skip

ALPAMAYO_R1 = Family(
    model_type="alpamayo_r1",
    title="Alpamayo R1",
    hub_id="nvidia/Alpamayo-R1-10B",
    special_tokens=_R1_TOKENS,
    labels_images=False,
    takes_navigation=False,
    takes_question=False,
    stored_statistics=True,
    released=SIZES_10B_UNLABELLED,
)
ALPAMAYO_1_5 = Family(
    model_type="alpamayo1_5",
    title="Alpamayo 1.5",
    hub_id="nvidia/Alpamayo-1.5-10B",
    special_tokens=tuple(
        f"_padding_{_ONLY_R1.index(name)}" if name in _ONLY_R1 else name for name in _R1_TOKENS
    ),
    labels_images=True,
    takes_navigation=True,
    takes_question=True,
    stored_statistics=False,
    released=SIZES_10B,
)
DEMO_FAMILY = ALPAMAYO_1_5
"""What the demo model is a small one of."""
FAMILIES = {family.model_type: family for family in (ALPAMAYO_1_5, ALPAMAYO_R1)}

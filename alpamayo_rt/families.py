# SPDX-License-Identifier: Apache-2.0
"""What distinguishes one model family from another, as data.

This is the only place that knows a family by name: everything else reads the fields below. A family that
comes later is one more `Family` value (and, where it needs a rule that none had, one more field).
"""

from __future__ import annotations

from dataclasses import dataclass

from alpamayo_rt import tasks
from alpamayo_rt.sizes import SIZES_10B, SIZES_10B_UNLABELLED, SIZES_36B, ReleasedSizes
from alpamayo_rt.tasks import Task

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


_VLM_PREFIXES = (
    ("vlm.model.visual.", "vision."),
    ("vlm.model.language_model.", "language."),
    ("vlm.lm_head.", "language.lm_head."),
)


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
        navigation_marks: what stands around a navigation text; None: the prompt has no place for one.
        stored_statistics: whether Fourier frequencies and action statistics are tensors of the checkpoint;
            otherwise they are computed in the type the model is loaded in.
        tasks: what it can be asked; the first one is driving.
        nested_config: whether config.json holds the language model's and the expert's own configs in full;
            otherwise it names a backbone's and changes some of its values for the expert.
        resizes_in_float: whether images keep the resize's overshoot; otherwise they are rounded to uint8.
        cuts_text: whether a text ends at the first closing token or text end that is written in it; otherwise
            these are left out and the task's own markers delimit it.
        still_below: m/s; where the inverse of a trajectory is slower its curvature is zero, and elsewhere it is
            clamped to its bounds. None: neither.
        system: the system sentence.
        tensor_prefixes: (prefix in the checkpoint, prefix in our modules), the first match counts.
        released: sizes of the released checkpoint; None: nothing is known that could be timed without it.
    """

    model_type: str
    title: str
    hub_id: str
    special_tokens: tuple[str, ...]
    labels_images: bool
    navigation_marks: tuple[str, str] | None
    stored_statistics: bool
    tasks: tuple[Task, ...]
    nested_config: bool = False
    resizes_in_float: bool = False
    cuts_text: bool = False
    still_below: float | None = None
    system: str = "You are a driving assistant that generates safe and accurate actions."
    tensor_prefixes: tuple[tuple[str, str], ...] = (
        *_VLM_PREFIXES,
        ("expert.", "expert.decoder."),
        ("action_in_proj.", "expert.action_in_proj."),
        ("action_out_proj.", "expert.action_out_proj."),
        ("action_space.", "action_space."),
    )
    released: ReleasedSizes | None = None

    @property
    def takes_navigation(self) -> bool:
        """Whether the prompt has a place for a navigation text."""
        return self.navigation_marks is not None

    @property
    def takes_question(self) -> bool:
        """Whether it answers questions."""
        return any(task.asks for task in self.tasks)

    @property
    def instruction(self) -> str:
        """The sentence that asks for a trajectory."""
        return self.tasks[0].instruction

    def default_cameras(self, task: str | None, question: str | None) -> tuple[int, ...]:
        """The cameras of a request that names none, whether or not the family does what it asks."""
        name = task or (tasks.VQA if question is not None else tasks.TRAJECTORY)
        return (self.task(name) or self.tasks[0]).cameras

    def task(self, name: str) -> Task | None:
        """The task of that name, or None where the family does not have it."""
        return next((task for task in self.tasks if task.name == name), None)


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

_DRIVE = "output the chain-of-thought reasoning of the driving process, then output "
_FOUR_CAMERAS = (0, 1, 2, 6)
_TRAJECTORY = Task(
    tasks.TRAJECTORY, "Trajectory", _FOUR_CAMERAS, 256,
    instruction=f"{_DRIVE}the future trajectory.", drives=True, closes=True,
    start="<|cot_start|>", end="<|cot_end|>",
)  # fmt: skip
_QUESTION = Task(
    tasks.VQA, "Question", _FOUR_CAMERAS, 256, needs_history=False, masks_bins=False,
    question_marks=("<|question_start|>", "<|question_end|>"), start="<|answer_start|>", end="<|answer_end|>",
)  # fmt: skip

ALPAMAYO_R1 = Family(
    model_type="alpamayo_r1",
    title="Alpamayo R1",
    hub_id="nvidia/Alpamayo-R1-10B",
    special_tokens=_R1_TOKENS,
    labels_images=False,
    navigation_marks=None,
    stored_statistics=True,
    tasks=(_TRAJECTORY,),
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
    navigation_marks=("<|route_start|>", "<|route_end|>"),
    stored_statistics=False,
    tasks=(_TRAJECTORY, _QUESTION),
    released=SIZES_10B,
)

_DRIVING_SIX, _AROUND_SIX = (0, 1, 2, 3, 5, 6), (0, 1, 2, 3, 4, 5)
ALPAMAYO_2_SUPER = Family(
    model_type="alpamayo2_super",
    title="Alpamayo 2 Super",
    hub_id="nvidia/Alpamayo2-Super",
    special_tokens=_R1_TOKENS,
    labels_images=True,
    released=SIZES_36B,
    navigation_marks=("", ""),
    stored_statistics=False,
    tasks=(
        Task(
            tasks.TRAJECTORY, "Trajectory", _DRIVING_SIX, 256,
            instruction=f"{_DRIVE}the future trajectory.", drives=True, closes=True, masks_end=True,
        ),
        Task(tasks.VQA, "Question", _AROUND_SIX, 1024, needs_history=False),
        Task(tasks.GROUNDING, "Grounding", _DRIVING_SIX, 1024, needs_history=False, reads=tasks.BOXES),
        Task(
            tasks.META_ACTION, "Meta-actions", _DRIVING_SIX, 512,
            instruction=f"{_DRIVE}meta actions, then output the future trajectory.",
            closes=True, reads=tasks.META_ACTIONS,
        ),
        Task(
            tasks.AUTO_LABELING, "Auto-label", _DRIVING_SIX, 1024,
            instruction="output a comprehensive analysis of the driving scene in JSON format.",
            needs_future=True, reads=tasks.LABELS,
        ),
    ),
    nested_config=True,
    resizes_in_float=True,
    cuts_text=True,
    still_below=0.6,
    tensor_prefixes=(
        *_VLM_PREFIXES,
        ("expert.expert.", "expert.decoder."),
        ("expert.action_in_proj.", "expert.action_in_proj."),
        ("expert.action_out_proj.", "expert.action_out_proj."),
    ),
)  # fmt: skip

DEMO_FAMILY = ALPAMAYO_1_5
"""What the demo model is a small one of."""
FAMILIES = {family.model_type: family for family in (ALPAMAYO_1_5, ALPAMAYO_R1, ALPAMAYO_2_SUPER)}

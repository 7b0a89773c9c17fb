# SPDX-License-Identifier: Apache-2.0
"""What a model can be asked: one `Task` a kind of request, as data that prompt, sampling and server read."""

from __future__ import annotations

from dataclasses import dataclass

TRAJECTORY, VQA, GROUNDING = "trajectory", "vqa", "grounding"
META_ACTION, AUTO_LABELING = "meta_action", "auto_labeling"
TASK_NAMES = (TRAJECTORY, VQA, GROUNDING, META_ACTION, AUTO_LABELING)

PLAIN, META_ACTIONS, LABELS, BOXES = "plain", "meta_actions", "labels", "boxes"
"""What is read from a text (`answers.py`)."""


@dataclass(frozen=True)
class Task:
    """One kind of request that a family answers.

    Attributes:
        name: as in requests, one of TASK_NAMES.
        title: its name for people.
        cameras: the cameras whose images a request without camera numbers has, in their order.
        limit: sampled tokens at most, where the request says nothing.
        instruction: what the user's turn ends with; empty where a question stands in its place.
        needs_history: whether past poses stand in the prompt.
        needs_future: whether future poses do.
        drives: whether trajectories follow; otherwise text is all.
        closes: whether `<|traj_future_start|>` ends a rollout.
        masks_bins: whether trajectory bins are never sampled.
        masks_end: whether the text's end is never sampled.
        question_marks: what stands around a question.
        start: first token of the assistant's turn, written by the prompt.
        end: where the model says that its text is complete; empty where only the rollout's end does.
        reads: what is read from the text: PLAIN, META_ACTIONS, LABELS or BOXES.
    """

    name: str
    title: str
    cameras: tuple[int, ...]
    limit: int
    instruction: str = ""
    needs_history: bool = True
    needs_future: bool = False
    drives: bool = False
    closes: bool = False
    masks_bins: bool = True
    masks_end: bool = False
    question_marks: tuple[str, str] = ("", "")
    start: str = ""
    end: str = ""
    reads: str = PLAIN

    @property
    def asks(self) -> bool:
        """Whether a question has to be given."""
        return not self.instruction

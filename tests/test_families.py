# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from alpamayo_rt.families import FAMILIES, Family
from alpamayo_rt.tasks import BOXES, LABELS, META_ACTIONS, PLAIN, TASK_NAMES, TRAJECTORY, VQA

SUPER = FAMILIES["alpamayo2_super"]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda f: f.title)
def test_tasks_are_named_once_and_the_first_one_drives(family: Family) -> None:
    names = [task.name for task in family.tasks]
    assert set(names) <= set(TASK_NAMES)
    assert len(set(names)) == len(names)
    assert names[0] == TRAJECTORY
    assert [task.drives for task in family.tasks] == [True] + [False] * (len(names) - 1)
    for task in family.tasks:
        assert family.task(task.name) is task
        assert task.limit > 0
        assert len(set(task.cameras)) == len(task.cameras)
        assert task.reads in (PLAIN, META_ACTIONS, LABELS, BOXES)
        # Whoever ends on the closing token has a history to continue.
        assert not task.closes or task.needs_history


def test_super_does_all_tasks_with_the_documented_cameras_and_limits() -> None:
    driving, around = (0, 1, 2, 3, 5, 6), (0, 1, 2, 3, 4, 5)
    assert {t.name: (t.cameras, t.limit) for t in SUPER.tasks} == {
        "trajectory": (driving, 256),
        "vqa": (around, 1024),
        "grounding": (driving, 1024),
        "meta_action": (driving, 512),
        "auto_labeling": (driving, 1024),
    }
    assert all(task.masks_bins for task in SUPER.tasks)
    assert [task.name for task in SUPER.tasks if task.masks_end] == [TRAJECTORY]
    assert [task.name for task in SUPER.tasks if task.closes] == [TRAJECTORY, "meta_action"]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda f: f.title)
def test_default_cameras_follow_the_task_and_the_question(family: Family) -> None:
    assert family.default_cameras(None, None) == family.tasks[0].cameras
    asking = family.task(VQA)
    if asking is not None:
        assert family.default_cameras(None, "Why?") == asking.cameras
    assert family.default_cameras("no such task", None) == family.tasks[0].cameras

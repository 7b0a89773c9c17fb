# SPDX-License-Identifier: Apache-2.0
"""A recorded array that is changed in one place is noticed, whichever array it is."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from situations import CASES as RECORDED
from situations import SHIPPED

from alpamayo_rt import InputError, Model
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.checks import check_case
from alpamayo_rt.verify.rows import Row

# The families whose cases have the arrays listed below, and whose models this file loads.
CASES = [(family, case) for family, case in RECORDED if family in ("alpamayo1_5", "alpamayo_r1")]
# What the recorded run was given: a change shows in whatever follows from it.
INPUTS = {"frames", "camera_indices", "ego_history_xyz", "ego_history_rot"}
# Compared with what the engine gives while something else may be wrong too: their chained rows read nothing
# of each other, so that one run shows whether each is compared.
INDEPENDENT = [
    "input_ids", "fused_input_ids", "rope_deltas", "image_embeds", "deepstack_0", "deepstack_1", "deepstack_2",
    "prefill_last_logits", "kv_keys", "kv_values", "expert_position_ids", "expert_attended", "euler_x",
    "euler_v", "action", "pred_xyz", "pred_rot",
]  # fmt: skip

Arrays = dict[str, np.ndarray]


def turn(rotations: np.ndarray) -> np.ndarray:
    """The last pose's heading, changed by 0.3 rad."""
    c, s = math.cos(0.3), math.sin(0.3)
    changed = rotations.copy()
    changed[..., -1, :, :] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ changed[..., -1, :, :]
    return changed


def in_last_row(name: str, array: np.ndarray) -> np.ndarray:
    """Five per cent of noise in the last part of `array` only: a layer, a step or a candidate."""
    changed = array.astype(np.float32)
    rng = np.random.default_rng(0)
    part = changed[-1:]
    if name.startswith("kv_"):  # (layers, rows, heads, S, d): the last row of the last layer, in the prompt
        part = part[0, -1, :, :100]
    elif name in ("euler_x", "euler_v", "euler_v_unguided"):  # the last candidate's first step
        part = changed[0, -1]
    elif name.startswith("pred_"):
        part = part[0, 0, -1]
    part *= 1 + 0.05 * rng.standard_normal(part.shape)
    part += 0.01 * np.abs(part).max()
    return changed.astype(array.dtype)


def perturb(name: str, arrays: Arrays) -> np.ndarray:
    """A small change of one array at a place that is compared."""
    array = arrays[name]
    if name == "frames":
        changed = array.copy()
        changed[-1, 0, :16, :16] ^= 128
        return changed
    if name == "camera_indices":
        return np.append(array[:-1], 3)
    if name == "ego_history_rot":
        return turn(array)
    if name == "ego_history_xyz":
        return array + np.linspace(0, 1, 16, dtype=np.float32)[:, None]
    if name == "expert_attended":
        changed = array.copy()
        changed[-1, 7] ^= True
        return changed
    if name == "sequences":  # the last row's first generated token
        changed = array.copy()
        changed[-1, arrays["input_ids"].shape[1]] += 1
        return changed
    if array.dtype.kind in "iu":
        changed = array.copy()
        changed.reshape(-1)[-1] += 1
        return changed
    return in_last_row(name, array)


def failed_arrays(rows: list[Row], source: str = "") -> set[str]:
    """Arrays with a row that fails; `kv_keys[3]` and `sequences (prompt)` are rows of their array."""
    return {r.quantity.split("[")[0].split(" ")[0] for r in rows if not r.passed and source in r.source}


@pytest.fixture
def checked(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[str, str, Callable[[Arrays], object]], list[Row]]:
    """Runs the checks on a copy of a recorded case that a function has changed."""

    def run(family: str, case: str, change: Callable[[Arrays], object]) -> list[Row]:
        shipped = family == "alpamayo1_5" and (SHIPPED / f"{case}.npz").exists()
        folder = SHIPPED if shipped else request.getfixturevalue("golden") / family
        model: Model = request.getfixturevalue("model_1_5" if family == "alpamayo1_5" else "model_r1")
        with np.load(folder / f"{case}.npz") as archive:
            arrays = dict(archive)
        change(arrays)
        np.savez(tmp_path / f"{case}.npz", **arrays)
        shutil.copyfile(folder / f"{case}.json", tmp_path / f"{case}.json")
        return check_case(model, Case(tmp_path / f"{case}.npz"))

    return run


Checked = Callable[[str, str, Callable[[Arrays], object]], list[Row]]

# Written out rather than read from the files, so that the tests can be listed without them.
_FRONT = ["image_grid_thw", "pixel_values", "input_ids", "frames"]
_DRIVING = sorted({*_FRONT, *INPUTS, *INDEPENDENT, "sequences", "noise", "euler_t"} - {"rope_deltas"})
ARRAYS = {
    "action": [
        "ego_history_xyz", "ego_history_rot", "action", "traj_xyz", "traj_rot", "action_from_traj", "v0",
        "history_tokens",
    ],
    "greedy6": [*_DRIVING, "rope_deltas"],
    "multiseq4": [*_DRIVING, "rope_deltas"],
    "nav_cfg": [*_DRIVING, "euler_v_unguided"],
    "preprocess_1080p": _FRONT,
    "vqa": [*_FRONT, "camera_indices", "ego_history_xyz", "ego_history_rot", "sequences"],
}  # fmt: skip
# Compared with what follows from recorded inputs, and again with what follows from the frames.
TWICE = (set(INDEPENDENT) | {"euler_v_unguided"}) - {"input_ids", "fused_input_ids", "rope_deltas"}
IN_TURN = [(case, name) for case in ("action", "nav_cfg", "preprocess_1080p", "vqa") for name in ARRAYS[case]]
LARGE = [(family, case) for family, case in CASES if case in ("greedy6", "multiseq4")]


@pytest.mark.parametrize(("family", "case"), CASES)
def test_every_recorded_array_is_swept(family: str, case: str, golden: Path) -> None:
    with np.load(golden / family / f"{case}.npz") as archive:
        assert sorted(archive.files) == sorted(ARRAYS[case])


# A question's prompt has no history, so that there is nothing to compare.
@pytest.mark.parametrize(
    ("case", "name"), [(c, n) for c, n in IN_TURN if (c, n[:11]) != ("vqa", "ego_history")]
)
def test_changed_array_fails_in_its_own_row(case: str, name: str, checked: Checked) -> None:
    def change(arrays: Arrays) -> None:
        changed = perturb(name, arrays)
        assert (changed != arrays[name]).any()
        arrays[name] = changed

    rows = checked("alpamayo1_5", case, change)
    failed = failed_arrays(rows)
    assert failed if name in INPUTS or (case, name) == ("action", "action") else name in failed
    if case == "nav_cfg" and name in TWICE:
        assert name in failed_arrays(rows, "fed") & failed_arrays(rows, "chained")


@pytest.mark.parametrize(("family", "case"), LARGE)
def test_changed_arrays_of_large_cases_fail_each_in_its_own_row(
    family: str, case: str, checked: Checked
) -> None:
    def change(arrays: Arrays) -> None:
        arrays.update({name: perturb(name, arrays) for name in INDEPENDENT})

    rows = checked(family, case, change)
    # The rope delta follows from the prompt alone, which is fed and chained in one.
    assert set(INDEPENDENT) - {"rope_deltas"} <= failed_arrays(rows, "chained")
    assert "rope_deltas" in failed_arrays(rows)


@pytest.mark.parametrize("name", ["noise", "euler_t", "sequences", "pixel_values"])
@pytest.mark.parametrize(("family", "case"), LARGE)
def test_changed_start_of_a_fed_stage_fails(family: str, case: str, name: str, checked: Checked) -> None:
    failed = failed_arrays(checked(family, case, lambda arrays: arrays.update({name: perturb(name, arrays)})))
    # Sampled tokens are given to the model; that they were others shows in its cache.
    assert ("kv_keys" if (case, name) == ("multiseq4", "sequences") else name) in failed


@pytest.mark.parametrize("case", ["action", "nav_cfg", "vqa"])
def test_array_of_an_unknown_name_fails(case: str, checked: Checked) -> None:
    rows = checked("alpamayo1_5", case, lambda arrays: arrays.update(surprise=np.zeros(3)))
    assert [r.quantity for r in rows if not r.passed] == ["surprise"]


@pytest.mark.parametrize(
    ("case", "name"),
    # What a case may lack, or what makes it another kind of case, is not an error: see the next test.
    [
        (case, name)
        for case, name in IN_TURN
        if name not in ("camera_indices", "fused_input_ids", "rope_deltas", "euler_v_unguided")
        and (case, name)
        not in (("nav_cfg", "sequences"), ("vqa", "ego_history_xyz"), ("vqa", "ego_history_rot"))
        and case != "preprocess_1080p"
    ],
)
def test_removed_array_is_an_input_error(case: str, name: str, checked: Checked) -> None:
    with pytest.raises(InputError, match=r"array \w+ is missing"):
        checked("alpamayo1_5", case, lambda arrays: arrays.pop(name))


@pytest.mark.parametrize("name", ["sequences", "euler_v_unguided"])
def test_case_without_what_the_rest_belongs_to_fails(name: str, checked: Checked) -> None:
    assert failed_arrays(checked("alpamayo1_5", "nav_cfg", lambda arrays: arrays.pop(name)))


@pytest.mark.parametrize("name", ["kv_keys", "euler_v", "action", "pred_xyz", "image_embeds", "v0", "traj_rot"])
def test_value_that_is_not_finite_fails(name: str, checked: Checked) -> None:
    case = "action" if name in ("v0", "traj_rot") else "nav_cfg"

    def change(arrays: Arrays) -> None:
        arrays[name].reshape(-1)[0] = np.nan

    assert name in failed_arrays(checked("alpamayo1_5", case, change))


@pytest.mark.parametrize("name", ["input_ids", "pixel_values"])
def test_case_that_is_longer_than_ours_gives_a_failing_row(name: str, checked: Checked) -> None:
    def change(arrays: Arrays) -> None:
        axis = arrays[name].ndim - 1 if name == "input_ids" else 0
        arrays[name] = np.concatenate([arrays[name], arrays[name].take([0], axis)], axis)

    rows = checked("alpamayo1_5", "vqa", change)
    assert math.inf in [r.error for r in rows if r.quantity == name]

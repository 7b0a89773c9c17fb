# SPDX-License-Identifier: Apache-2.0
"""Every recorded case passes in float32, and in lower precisions within their bounds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from situations import CASES, DRIVING_CASES, SHIPPED, SHIPPED_SUPER

from alpamayo_rt import Model, load
from alpamayo_rt.engine.eager import EagerEngine
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.checks import check_case
from alpamayo_rt.verify.rows import Row

# Fewer rows than these would mean that a stage is no longer compared.
DRIVING_ROWS, OTHER_ROWS = 80, 5
LOW = ("fp16", "bf16")
# bfloat16, as releases are stored, for every family; float16 for the first alone unless all tests run.
LOW_CASES = [
    pytest.param(family, name, precision, marks=[pytest.mark.slow] if precision == "fp16" and i else [])
    for i, (_, cases) in enumerate(groupby(CASES, lambda case: case[0]))
    for family, name in cases
    for precision in LOW
]


def failures(rows: list[Row]) -> list[str]:
    return [f"{r.quantity} ({r.source}): {r.error:.3g} > {r.bound:.3g}" for r in rows if not r.passed]


@pytest.fixture(scope="session")
def low_precision(golden: Path) -> Callable[[str, str], Model]:
    loaded: dict[tuple[str, str], Model] = {}

    def get(family: str, precision: str) -> Model:
        if (family, precision) not in loaded:
            folder = golden / family / "model" / "checkpoint"
            loaded[family, precision] = load(str(folder), "eager", precision, "cpu")
        return loaded[family, precision]

    return get


@pytest.mark.parametrize("name", ["action", "nav_cfg", "vqa"])
def test_shipped_case_passes(name: str, model_1_5: Model) -> None:
    rows = check_case(model_1_5, Case(SHIPPED / f"{name}.npz"))
    assert failures(rows) == []
    assert len(rows) >= (DRIVING_ROWS if name == "nav_cfg" else OTHER_ROWS)


def test_shipped_action_case_of_super_passes(model_2_super: Model) -> None:
    rows = check_case(model_2_super, Case(SHIPPED_SUPER / "action.npz"))
    assert failures(rows) == []
    assert {"action_from_traj (edges)", "future_tokens"} <= {r.quantity for r in rows}


@pytest.fixture(scope="session")
def recorded_super(golden: Path) -> Model:
    return load(str(golden / "alpamayo2_super" / "model" / "checkpoint"), "eager", "fp32", "cpu")


@pytest.mark.parametrize(("family", "name"), CASES)
def test_recorded_case_passes(
    family: str, name: str, golden: Path, model_1_5: Model, request: pytest.FixtureRequest
) -> None:
    fixtures = {"alpamayo_r1": "model_r1", "alpamayo2_super": "recorded_super"}
    model = model_1_5 if family == "alpamayo1_5" else request.getfixturevalue(fixtures[family])
    rows = check_case(model, Case(golden / family / f"{name}.npz"))
    assert failures(rows) == []
    driving = name in DRIVING_CASES
    assert len(rows) >= (DRIVING_ROWS if driving else OTHER_ROWS)
    assert not driving or {r.source for r in rows} == {"fed", "chained"}


@pytest.mark.parametrize(("family", "name", "precision"), LOW_CASES)
def test_recorded_case_passes_in_low_precision(
    family: str, name: str, precision: str, golden: Path, low_precision: Callable[[str, str], Model]
) -> None:
    rows = check_case(low_precision(family, precision), Case(golden / family / f"{name}.npz"))
    assert failures(rows) == []


# Each part in one precision, and in the other when all tests are asked for.
@pytest.mark.parametrize(
    ("weight", "quantity", "precision"),
    [
        pytest.param(*part, precision, marks=[pytest.mark.slow] if (i + j) % 2 else [])
        for i, part in enumerate(
            [
                ("vision.blocks.1.mlp.linear_fc2.weight", "image_embeds"),
                ("language.layers.1.mlp.down_proj.weight", "kv_keys[2]"),
                ("language.layers.3.self_attn.v_proj.weight", "kv_values[3]"),
                ("expert.action_out_proj.weight", "euler_v[0]"),
            ]
        )
        for j, precision in enumerate(LOW)
    ],
)
def test_low_precision_bounds_notice_a_part_that_is_switched_off(
    weight: str, quantity: str, precision: str
) -> None:
    model = load(str(SHIPPED / "model" / "checkpoint"), "eager", precision, "cpu")
    assert isinstance(model.engine, EagerEngine)
    model.engine.network.get_parameter(weight).zero_()
    failed = {(r.quantity, r.source) for r in check_case(model, Case(SHIPPED / "nav_cfg.npz")) if not r.passed}
    assert {(quantity, "fed"), (quantity, "chained")} <= failed

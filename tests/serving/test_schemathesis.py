# SPDX-License-Identifier: Apache-2.0
"""Requests made from our OpenAPI, and from its opposite: no 5xx, and every answer is one that it describes."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from conftest import Running

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")

EVERYTHING = os.environ.get("ALPAMAYO_RT_TEST_ALL") == "1"


def _probe(running: Running, examples: int) -> int:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def check(case) -> None:  # type: ignore[no-untyped-def]
                nonlocal asked
                asked += 1
                response = case.call(timeout=30)
                case.validate_response(response, checks=checks)

            from hypothesis import given

            try:
                given(case=strategy)(check)()
            except Exception as error:
                if type(error).__name__ != "Unsatisfiable":
                    raise
    return asked


def test_no_server_errors(running: Running) -> None:
    assert _probe(running, 8) > 40
    assert running.errors == []


@pytest.mark.slow
def test_no_server_errors_at_length(running: Running) -> None:
    assert _probe(running, 300) > 1500
    assert running.errors == []

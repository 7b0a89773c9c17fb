# SPDX-License-Identifier: Apache-2.0
"""Which tests run when, and (with ALPAMAYO_RT_NO_SKIPS=1) which reasons for a skip are no excuse."""

from __future__ import annotations

import os

import pytest
import torch

LATER = "part of make test-all"
NO_GPU = "needs a CUDA device"
_LONG = {
    "slow": "minutes of load",
    "browser": "needs a browser",
    "tensorrt": "needs TensorRT",
    "ray": "needs Ray",
    "nvrtc": "needs NVIDIA's runtime compiler",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU, and the long tests unless all are asked for."""
    everything = os.environ.get("ALPAMAYO_RT_TEST_ALL") == "1"
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason=NO_GPU))
        for name, what in _LONG.items():
            if item.get_closest_marker(name) and not everything:
                item.add_marker(pytest.mark.skip(reason=f"{what}: {LATER}"))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Fail the run over skips that the machine was set up to avoid: a missing package, missing cases."""
    if os.environ.get("ALPAMAYO_RT_NO_SKIPS") != "1":
        return
    reasons = {
        report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    }
    for reason in sorted(r for r in reasons if LATER not in r and NO_GPU not in r):
        terminalreporter.write_line(f"not allowed to be skipped here: {reason}", red=True)
        terminalreporter.config.stash[_FORBIDDEN] = True


_FORBIDDEN = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> object:
    """Runs around the terminal's own, which writes the summary."""
    outcome = yield
    if session.config.stash.get(_FORBIDDEN, False) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return outcome

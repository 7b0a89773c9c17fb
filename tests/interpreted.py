# SPDX-License-Identifier: Apache-2.0
"""Runs a test file a second time with Triton's kernels in its interpreter, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def run_again_in_the_interpreter(file: str) -> None:
    """Unless the kernels are what this run tests anyway."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available():
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1", "ALPAMAYO_RT_NO_SKIPS": ""},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]

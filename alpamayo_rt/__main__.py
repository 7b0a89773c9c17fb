# SPDX-License-Identifier: Apache-2.0
"""`python -m alpamayo_rt`."""

from alpamayo_rt.cli.main import run

run()

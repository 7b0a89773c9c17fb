# SPDX-License-Identifier: Apache-2.0
"""Timing: workloads of the released sizes, stage by stage, with a check of what was timed."""

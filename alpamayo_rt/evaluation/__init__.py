# SPDX-License-Identifier: Apache-2.0
"""Metrics of trajectories, and baselines that need no model."""

# SPDX-License-Identifier: Apache-2.0
"""From noise to actions to trajectories, and back."""

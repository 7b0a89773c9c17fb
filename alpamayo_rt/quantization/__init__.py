# SPDX-License-Identifier: Apache-2.0
"""Narrower weights: FP8 and INT4 linear layers, their calibration, and checkpoints that hold them."""

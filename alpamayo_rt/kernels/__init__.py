# SPDX-License-Identifier: Apache-2.0
"""Triton kernels, each beside a torch twin."""

# SPDX-License-Identifier: Apache-2.0
"""Kernels in CUDA C++ for Hopper, compiled where they run by the compiler that comes with torch."""

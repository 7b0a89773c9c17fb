# SPDX-License-Identifier: Apache-2.0
"""alpamayo-rt: run NVIDIA's open driving model Alpamayo."""

__version__ = "0.1.0"

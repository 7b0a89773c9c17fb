# SPDX-License-Identifier: Apache-2.0
"""The fast engine: static buffers, kernels of our own, and CUDA graphs from patches to actions."""

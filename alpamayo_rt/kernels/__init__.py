# SPDX-License-Identifier: Apache-2.0
"""GPU kernels, one a file: a function, its Triton kernel, and the torch twin that says what it computes.

`NAME(...)` runs the Triton kernel on CUDA tensors and the twin `NAME_reference(...)` elsewhere. The twins
compute in float32, or in float64 when they are fed float64, and so are the tests' oracle too. All lengths are
device tensors and no kernel waits for the host, so that all of them can be captured in a CUDA graph.
"""

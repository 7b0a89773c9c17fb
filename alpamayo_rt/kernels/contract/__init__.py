# SPDX-License-Identifier: Apache-2.0
"""The GPU operations around an expert engine with fixed bindings (docs/tensorrt.md)."""

# SPDX-License-Identifier: Apache-2.0
"""Attention over one cache that several sequences share: decode steps and the expert's tokens."""

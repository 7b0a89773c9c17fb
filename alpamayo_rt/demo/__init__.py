# SPDX-License-Identifier: Apache-2.0
"""A small procedural driving world, so that the demo drives and accuracy can be measured."""

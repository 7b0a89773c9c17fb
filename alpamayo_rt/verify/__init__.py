# SPDX-License-Identifier: Apache-2.0
"""Compares an engine with recorded cases of the public reference, quantity by quantity."""

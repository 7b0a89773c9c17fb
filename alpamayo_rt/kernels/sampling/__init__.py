# SPDX-License-Identifier: Apache-2.0
"""Choosing tokens on the device, without a sort and without the host."""

# SPDX-License-Identifier: Apache-2.0
"""What lies between the matrix products of a layer: norms, rotary positions, activations."""

# SPDX-License-Identifier: Apache-2.0
"""Products of many rows, by the fastest of the algorithms that the GPU's library has for them."""

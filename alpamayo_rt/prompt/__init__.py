# SPDX-License-Identifier: Apache-2.0
"""From a `Sample` to what the network reads: token ids, image patches, positions."""

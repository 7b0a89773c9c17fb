# SPDX-License-Identifier: Apache-2.0
"""Linear layers of a decode step: few rows, so that reading the weights is all that costs time."""

# SPDX-License-Identifier: Apache-2.0
"""Training of small models of the Alpamayo architecture in the demo world."""

# SPDX-License-Identifier: Apache-2.0
"""Everything that turns what a user has (request files, clips, prepared arrays) into a `Sample`."""

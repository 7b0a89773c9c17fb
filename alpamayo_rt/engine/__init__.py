# SPDX-License-Identifier: Apache-2.0
"""Ways to run the middle of the pipeline, from image patches to actions, stage by stage."""

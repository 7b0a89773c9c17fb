# SPDX-License-Identifier: Apache-2.0
"""The harness: clips from somewhere, through a model, into a folder that can be resumed, compared and
reported.
"""

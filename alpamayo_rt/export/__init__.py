# SPDX-License-Identifier: Apache-2.0
"""The parts of a checkpoint as ONNX files, traced from the same modules that the eager engine runs."""

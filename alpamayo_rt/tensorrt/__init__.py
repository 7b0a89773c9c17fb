# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines: building them from ONNX files, and what is written beside them."""

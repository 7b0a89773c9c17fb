# SPDX-License-Identifier: Apache-2.0
"""The errors that reach a user: each is one sentence that names field, value and what was expected."""


class AlpamayoError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(AlpamayoError, ValueError):
    """A request, clip or array is wrong; other requests of the same run are not affected."""


class ModelError(AlpamayoError):
    """A checkpoint, its config or its tokenizer cannot be used; the run cannot start."""


class EngineError(AlpamayoError):
    """The chosen engine, device or precision is not available here; the run cannot start."""


class DatasetError(AlpamayoError):
    """A clip dataset cannot be opened or written at all; the run cannot start."""

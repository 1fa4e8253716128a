"""Keras' policy of low precision, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def bfloat16() -> Iterator[None]:
    """Layers that are made within it multiply in bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")

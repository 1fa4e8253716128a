"""Keras' `mixed_bfloat16` policy as a context manager."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def bfloat16() -> Iterator[None]:
    """Build layers with bfloat16 products while the context lasts; the policy is float32 afterwards."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")

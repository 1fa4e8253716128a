"""Small valid inputs for any signature, made from the names of its arguments.

An argument name has the same meaning in every signature of this project, so the name determines the
input. The same metadata always gives the same inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from serving.export.metadata import Metadata

ROWS = 3


def rows(names: Iterable[str], metadata: Metadata) -> dict[str, tf.Tensor]:
    """`ROWS` rows for the arguments called `names`, each [ROWS, ...]; no two rows are the same.

    Raises:
      ValueError: a name is unknown.
    """
    unknown = sorted(set(names) - set(_MAKERS))
    if unknown:
        raise ValueError(f"inputs must be among {sorted(_MAKERS)}, got {unknown}")
    return {name: _MAKERS[name](metadata) for name in names}


def _gradient(height: int, width: int, row: int) -> np.ndarray:
    """float32 [height, width, 3] in [0, 1]: red grows downwards, green to the right, blue with the row."""
    red, green = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    blue = np.full_like(red, row / (ROWS - 1))
    return np.stack([red, green, blue], axis=-1).astype(np.float32)


def _image_bytes(metadata: Metadata) -> tf.Tensor:
    # Square, wide and tall: signatures must accept images of any size.
    size = metadata.image_size
    shapes = [(size, size), (size + 3, 2 * size), (2 * size + 1, size)]
    pictures = [_gradient(height, width, row) for row, (height, width) in enumerate(shapes)]
    return tf.stack([tf.io.encode_png(np.uint8(255 * picture)) for picture in pictures])


def _examples(metadata: Metadata) -> tf.Tensor:
    features = []
    for content, label in zip(_image_bytes(metadata).numpy(), _class_id(metadata).numpy(), strict=True):
        example = tf.train.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(content)
        example.features.feature["image/label"].int64_list.value.append(label)
        features.append(example.SerializeToString())
    return tf.constant(features)


def _pixels(metadata: Metadata) -> tf.Tensor:
    size = metadata.image_size
    return tf.stack([_gradient(size, size, row) for row in range(ROWS)])


def _tokens(metadata: Metadata) -> tf.Tensor:
    # From the first code to the last, both ends included.
    spread = np.linspace(0, metadata.codebook_size - 1, ROWS * metadata.tokens)
    return tf.constant(spread.reshape(ROWS, metadata.tokens), tf.int32)


def _class_id(metadata: Metadata) -> tf.Tensor:
    last = max(len(metadata.class_names) - 1, 0)
    return tf.constant([0, last // 2, last], tf.int32)


def _kept_rows(metadata: Metadata) -> tf.Tensor:
    side = math.isqrt(metadata.tokens)
    return tf.constant([0, side // 2, side], tf.int32)


_MAKERS: dict[str, Callable[[Metadata], tf.Tensor]] = {
    "image_bytes": _image_bytes,
    "examples": _examples,
    "pixels": _pixels,
    "tokens": _tokens,
    "token": lambda metadata: tf.constant(
        [0, metadata.codebook_size // 2, metadata.codebook_size - 1], tf.int32
    ),
    "class_id": _class_id,
    "kept_rows": _kept_rows,
    "seed": lambda _: tf.constant([0, 1, 2**40], tf.int64),
    "temperature": lambda _: tf.constant([0.0, 0.5, 1.0]),
    "top_k": lambda _: tf.constant([0, 2, 0], tf.int32),
    "top_p": lambda _: tf.constant([1.0, 0.5, 1.0]),
    "guidance_scale": lambda _: tf.constant([1.0, 1.5, 1.0]),
}

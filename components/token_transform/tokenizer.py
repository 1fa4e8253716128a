"""Crops rows of images and encodes them to rows of tokens, in batches of a fixed size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from serving.export import images
from serving.export.signatures import read_metadata

SIGNATURE = "encode_pixels"


class Row(NamedTuple):
    """One variant of one image, to be encoded.

    Attributes:
      key: the image's id.
      label: its class id; None if unlabelled.
      variant: 0 for the centre crop, other numbers for random crops.
      image_bytes: the encoded image.
    """

    key: str
    label: int | None
    variant: int
    image_bytes: bytes


def crop_seed(seed: int, key: str, variant: int) -> tuple[int, int]:
    """The two int32 seeds of a variant's crop, from these three arguments alone."""
    digest = hashlib.sha256(f"{seed}/{variant}/{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big", signed=True), int.from_bytes(digest[4:8], "big", signed=True)


class Tokenizer:
    """A tokenizer SavedModel, preceded by the crops; `metadata` is the model's metadata."""

    def __init__(self, path: str, *, batch_size: int, min_scale: float, flip: bool, seed: int):
        model = tf.saved_model.load(path)
        if SIGNATURE not in model.signatures:
            raise ValueError(
                f"{path} must have the signature {SIGNATURE}, got {', '.join(sorted(model.signatures))}"
            )
        self._model = model  # a signature alone does not keep its variables alive
        self._encode = model.signatures[SIGNATURE]
        self._batch_size = batch_size
        self._seed = seed
        self.metadata = read_metadata(model)
        self._crops = _crops(self.metadata.image_size, min_scale=min_scale, flip=flip)

    def crop(self, rows: Sequence[Row]) -> tf.Tensor:
        """Rows -> pixels, float32 [rows, S, S, 3] in [0, 1].

        Raises:
          tf.errors.InvalidArgumentError: an image cannot be decoded (`decodable` tells which).
        """
        return self._crops(
            tf.constant([row.image_bytes for row in rows]),
            tf.constant([crop_seed(self._seed, row.key, row.variant) for row in rows]),
            tf.constant([row.variant for row in rows]),
        )

    def encode(self, pixels: tf.Tensor) -> np.ndarray:
        """Pixels of at most `batch_size` rows -> tokens, int32 [rows, N]."""
        rows = pixels.shape[0]
        # One shape for all calls: the model is compiled once, and an image's tokens do not depend on
        # the number of other images in its batch.
        padded = tf.pad(pixels, [[0, self._batch_size - rows], [0, 0], [0, 0], [0, 0]])
        return self._encode(pixels=padded)["tokens"].numpy()[:rows]


def decodable(image_bytes: bytes) -> bool:
    """Whether the bytes can be decoded as an image."""
    try:
        images.decode(tf.constant(image_bytes))
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _crops(size: int, *, min_scale: float, flip: bool) -> tf.types.experimental.PolymorphicFunction:
    """(image_bytes [B], seed int32 [B, 2], variant int32 [B]) -> float32 [B, size, size, 3] in [0, 1]."""

    def crop(row: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image_bytes, seed, variant = row
        pixels = images.decode(image_bytes)
        return tf.cond(
            variant == 0,
            lambda: images.center_crop(pixels, size),
            lambda: images.random_resized_crop(pixels, size, seed, min_scale=min_scale, flip=flip),
        )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string),
            tf.TensorSpec([None, 2], tf.int32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def crops(image_bytes, seeds, variants):
        return tf.map_fn(
            crop,
            (image_bytes, seeds, variants),
            fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32),
        )

    return crops

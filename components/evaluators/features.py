"""The feature protocol `classifier`: the data's own classifier looks at 8-bit images.

FID and IS on natural images look through Inception, which was trained on them; on other images, such
as digits, its features say little. Here the classifier that was trained on the same Examples looks:
features are its pooled activations, class probabilities the softmax of its logits. Numbers compare
within one data set and classifier, never with published ones. Images are rounded to 8 bits first, as
stored images are, so that a set of files and a set of arrays score alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.evaluators.examples import ImageBatch
from components.evaluators.models import SavedModel
from serving import images

PROTOCOL = "classifier"

# The size of the splits that the score is averaged over (Dhariwal & Nichol 2021's evaluator).
INCEPTION_SPLIT = 5000

decode = tf.function(images.decode_batch, reduce_retracing=True)


class Description(NamedTuple):
    """B images in the eyes of the classifier."""

    features: np.ndarray  # float32 [B, D]
    probabilities: np.ndarray  # float32 [B, C]


class Describe(beam.DoFn):
    """`ImageBatch` -> `Description`."""

    def __init__(self, classifier: SavedModel, image_size: int):
        self._handle = classifier
        self._image_size = image_size

    def setup(self) -> None:
        """Loads the classifier."""
        self._classifier = self._handle.load()

    def process(self, batch: ImageBatch):
        """Looks at one batch."""
        pixels = decode(tf.constant(batch.image_bytes), self._image_size)
        yield look(self._classifier, to_8_bits(pixels.numpy()))


def look(classifier: Any, levels: np.ndarray) -> Description:
    """What a loaded classifier says of 8-bit images, uint8 [B, S, S, 3]."""
    answer = classifier.signatures["classify_pixels"](pixels=tf.constant(levels.astype(np.float32) / 255.0))
    return Description(answer["features"].numpy(), tf.nn.softmax(answer["logits"]).numpy())


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] to the nearest of 256 levels, uint8; what is not a number becomes black."""
    return np.rint(255.0 * np.clip(np.nan_to_num(pixels), 0.0, 1.0)).astype(np.uint8)


def inception_splits(count: int) -> int:
    """In how many parts the inception score of `count` images is taken."""
    return max(1, count // INCEPTION_SPLIT)

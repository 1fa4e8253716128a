"""Feature networks, in whose features FID and the Inception Score are measured.

There is one: the classifier that was trained on the same Examples. FID and IS on natural images use
Inception, which was trained on them; its features say little about other images, such as digits. Scores in
the classifier's features compare within one data set and classifier, never with published ones. Images are
rounded to 8 bits first, as stored images are, so that a set of files and a set of arrays get the same score.

`feature_network` is the one place that chooses a network (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx.types import Artifact

from components.evaluators.examples import ImageBatch
from components.saved_model import SavedModel
from serving.export import images

# The size of the splits that the Inception Score is averaged over (Dhariwal and Nichol 2021's evaluator).
INCEPTION_SPLIT = 5000

decode = tf.function(images.decode_batch, reduce_retracing=True)


class Features(NamedTuple):
    """What a feature network computes of B images."""

    features: np.ndarray  # float32 [B, D]
    probabilities: np.ndarray  # float32 [B, C], of the network's classes


# 8-bit images uint8 [B, S, S, 3] to their features.
Extract = Callable[[np.ndarray], Features]


class FeatureNetwork(Protocol):
    """A feature network, light enough to be sent to a Beam worker.

    Attributes:
      protocol: its name in `evaluation.json`; scores compare only under the same name.
      class_names: the classes of its probabilities.
    """

    protocol: str
    class_names: tuple[str, ...]

    def load(self) -> Extract:
        """Load the network, once a process."""


class ClassifierFeatures:
    """Pooled activations and class probabilities of the run's own classifier."""

    protocol = "classifier"

    def __init__(self, classifier: SavedModel):
        self._classifier = classifier
        self.class_names = classifier.metadata().class_names

    def load(self) -> Extract:
        """Load the classifier, once a process."""
        classify = self._classifier.load().signatures["classify_pixels"]

        def extract(levels: np.ndarray) -> Features:
            answer = classify(pixels=tf.constant(levels.astype(np.float32) / 255.0))
            return Features(answer["features"].numpy(), tf.nn.softmax(answer["logits"]).numpy())

        return extract


def feature_network(inputs: Mapping[str, list[Artifact]]) -> FeatureNetwork:
    """The feature network of an evaluator with these input artifacts."""
    return ClassifierFeatures(SavedModel.of(inputs["classifier"]))


class ExtractFeatures(beam.DoFn):
    """`ImageBatch` -> `Features`."""

    def __init__(self, network: FeatureNetwork, image_size: int):
        self._network = network
        self._image_size = image_size

    def setup(self) -> None:
        """Load the network."""
        self._extract = self._network.load()

    def process(self, batch: ImageBatch) -> Iterator[Features]:
        """Compute the features of one batch."""
        pixels = decode(tf.constant(batch.image_bytes), self._image_size)
        yield self._extract(to_8_bits(pixels.numpy()))


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] to the nearest of 256 levels, uint8; NaN becomes black."""
    return np.rint(255.0 * np.clip(np.nan_to_num(pixels), 0.0, 1.0)).astype(np.uint8)


def inception_splits(count: int) -> int:
    """The number of splits that the Inception Score of `count` images is averaged over."""
    return max(1, count // INCEPTION_SPLIT)

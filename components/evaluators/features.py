"""Feature networks, in whose features FID and the Inception Score are measured.

The run's own classifier is one: scores in its features compare within one data set and classifier, never with
published ones. Others are in `components.evaluators.protocols`. Images are rounded to 8 bits first, as stored
images are, so that a set of files and a set of arrays get the same score.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from components.evaluators.network_names import OWN
from components.saved_model import SavedModel
from serving.export import images
from serving.export.classifier import ROTATIONS
from serving.export.versions import content_digest

# The folder of a SavedModel's weights.
VARIABLES = "variables"
# The size of the splits that the Inception Score is averaged over (Dhariwal and Nichol 2021's evaluator).
INCEPTION_SPLIT = 5000

decode = tf.function(images.decode_batch, reduce_retracing=True)


class Features(NamedTuple):
    """What a feature network computes of B images."""

    features: np.ndarray  # float32 [B, D]
    probabilities: np.ndarray  # float32 [B, C], of the network's classes; [B, 0] if it has none


# 8-bit images uint8 [B, S, S, 3] to their features.
Extract = Callable[[np.ndarray], Features]


class FeatureNetwork(Protocol):
    """A feature network, light enough to be sent to a Beam worker.

    Attributes:
      name: in `evaluation.json`; scores compare only under the same name and weights.
      has_probabilities: whether it has classes, and so an Inception Score.
    """

    name: str
    has_probabilities: bool

    def about(self) -> dict[str, Any]:
        """What must be the same for two scores to compare: `weights`, `resize`."""

    def load(self) -> Extract:
        """Load the network, once a process."""


class ClassifierFeatures:
    """Pooled activations and class probabilities of a run's classifier, trained by it or pretrained.

    Attributes:
      class_names: the classes of its probabilities.
    """

    name = OWN
    has_probabilities = True

    def __init__(self, classifier: SavedModel):
        self._classifier = classifier
        self._metadata = classifier.metadata()
        self.class_names = self._metadata.class_names

    @property
    def tells_rotations(self) -> bool:
        """Whether it was trained on images without labels."""
        return self.class_names == ROTATIONS

    def about(self) -> dict[str, Any]:
        """The digest of its weights, how images come to its size, and what it is if no run trained it."""
        architecture = self._metadata.architecture
        return {
            "weights": weights_digest(self._classifier.path),
            "resize": self._metadata.resize,
            **({"architecture": architecture} if architecture else {}),
        }

    def load(self) -> Extract:
        """Load the classifier, once a process."""
        classify = self._classifier.load().signatures["classify_pixels"]

        def extract(levels: np.ndarray) -> Features:
            answer = classify(pixels=tf.constant(levels.astype(np.float32) / 255.0))
            return Features(answer["features"].numpy(), tf.nn.softmax(answer["logits"]).numpy())

        return extract


def weights_digest(saved_model: str) -> str:
    """The digest of the weights of a SavedModel.

    Not of its graph: two machines write the same weights, and graphs with other names in them.
    """
    return content_digest(os.path.join(saved_model, VARIABLES))


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] to the nearest of 256 levels, uint8; NaN becomes black."""
    return np.rint(255.0 * np.clip(np.nan_to_num(pixels), 0.0, 1.0)).astype(np.uint8)


def inception_splits(count: int) -> int:
    """The number of splits that the Inception Score of `count` images is averaged over."""
    return max(1, count // INCEPTION_SPLIT)

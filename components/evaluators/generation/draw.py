"""Drawing a set of images from a generator, so that any worker can draw any part of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.evaluators import features
from components.evaluators.models import SavedModel


class Plan(NamedTuple):
    """The set to draw: image i is of class i % classes and has a seed of its own."""

    samples: int
    classes: int  # 0: unconditional
    batch_size: int
    seed: int
    temperature: float
    top_k: int
    top_p: float
    guidance: float

    def starts(self) -> list[int]:
        """The first index of each batch."""
        return list(range(0, self.samples, self.batch_size))

    def class_ids(self, indices: np.ndarray) -> np.ndarray:
        """int32 [B]; 0 where there are no classes."""
        return (indices % max(self.classes, 1)).astype(np.int32)

    def row_seeds(self, indices: np.ndarray) -> np.ndarray:
        """int64 [B]: the set's seed in the upper half, the index in the lower, so that no two meet."""
        return (np.int64(self.seed % 2**31) << np.int64(32)) + indices.astype(np.int64)


class Drawn(NamedTuple):
    """B drawn images in the eyes of the classifier."""

    indices: np.ndarray  # int64 [B]
    class_ids: np.ndarray  # int32 [B], the wanted ones
    images: np.ndarray  # uint8 [B, S, S, 3]
    description: features.Description
    recognized: np.ndarray  # float64 [B, 1], 1 where the classifier sees the wanted class


class Draw(beam.DoFn):
    """First index of a batch -> `Drawn`."""

    def __init__(self, generator: SavedModel, classifier: SavedModel, plan: Plan, image_size: int):
        self._handles = generator, classifier
        self._plan = plan
        self._image_size = image_size

    def setup(self) -> None:
        """Loads both models."""
        self._generator, self._classifier = (handle.load() for handle in self._handles)

    def process(self, start: int) -> Iterator[Drawn]:
        """Draws one batch and looks at it."""
        plan = self._plan
        # Always a whole batch, cut afterwards: a generator may compile for the size it meets.
        indices = np.arange(start, start + plan.batch_size, dtype=np.int64)
        answer = self._generator.signatures["generate"](
            class_id=tf.constant(plan.class_ids(indices)),
            seed=tf.constant(plan.row_seeds(indices)),
            temperature=tf.fill([plan.batch_size], plan.temperature),
            top_k=tf.fill([plan.batch_size], plan.top_k),
            top_p=tf.fill([plan.batch_size], plan.top_p),
            guidance=tf.fill([plan.batch_size], plan.guidance),
        )
        indices = indices[: plan.samples - start]
        images = features.to_8_bits(
            features.decode(answer["image_bytes"][: len(indices)], self._image_size).numpy()
        )
        class_ids = plan.class_ids(indices)
        description = features.look(self._classifier, images)
        recognized = description.probabilities.argmax(axis=1) == class_ids
        yield Drawn(indices, class_ids, images, description, recognized[:, None].astype(np.float64))

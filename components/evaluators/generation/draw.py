"""Drawing a set of images from a generator, so that any worker can draw any part of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.evaluators import features
from components.evaluators.models import SavedModel
from serving.queries import GUIDANCE_SCHEDULES


class Plan(NamedTuple):
    """The set to draw: image i is of class i % classes and has a seed of its own.

    Of N samples and C classes, class c has n_c = N // C of them, and one more where c < N % C. With an
    acceptance r below 1, ceil(n_c / r) candidates of it are drawn, so that no class is chosen from fewer
    than r asks for. Candidate number k of class c is image k C + c: whatever r is, the first candidates of
    a class are the images that acceptance 1 draws.
    """

    samples: int
    classes: int  # 0: unconditional
    batch_size: int
    seed: int
    acceptance: float  # in (0, 1]
    temperature: float
    top_k: int
    top_p: float
    guidance: float
    guidance_schedule: str  # a key of `GUIDANCE_SCHEDULES`

    @property
    def candidates(self) -> int:
        """How many images are drawn: `samples` at acceptance 1."""
        rounds, more = self._rounds()
        return rounds * self._cycle + (more - rounds) * (self.samples % self._cycle)

    def starts(self) -> list[int]:
        """The place of each batch's first candidate."""
        return list(range(0, self.candidates, self.batch_size))

    def indices(self, places: np.ndarray) -> np.ndarray:
        """The image numbers of candidates, int64 [B], by their places in [0, candidates).

        All classes come in turn, and after them the candidates that only the first N % C classes have.
        """
        rounds, _ = self._rounds()
        common = rounds * self._cycle
        first = max(self.samples % self._cycle, 1)
        rest = places - common
        beyond = (rounds + rest // first) * self._cycle + rest % first
        return np.where(places < common, places, beyond).astype(np.int64)

    def class_ids(self, indices: np.ndarray) -> np.ndarray:
        """int32 [B]; 0 where there are no classes."""
        return (indices % self._cycle).astype(np.int32)

    def row_seeds(self, indices: np.ndarray) -> np.ndarray:
        """int64 [B]: the set's seed in the upper half, the index in the lower, so that no two meet."""
        return (np.int64(self.seed % 2**31) << np.int64(32)) + indices.astype(np.int64)

    @property
    def _cycle(self) -> int:
        return max(self.classes, 1)

    def _rounds(self) -> tuple[int, int]:
        """Candidates of a class with N // C samples, and of one with a sample more."""
        # The decimal number as it was written: as a binary one, 0.1 is a little more than a tenth.
        acceptance = Fraction(str(self.acceptance))
        fewer = self.samples // self._cycle
        return math.ceil(fewer / acceptance), math.ceil((fewer + 1) / acceptance)


class Drawn(NamedTuple):
    """B drawn images in the eyes of the classifier."""

    places: np.ndarray  # int64 [B], in the set that they belong to: of all candidates, or of those kept
    indices: np.ndarray  # int64 [B], image numbers of the plan
    class_ids: np.ndarray  # int32 [B], the wanted ones
    description: features.Description

    @property
    def wanted(self) -> np.ndarray:
        """float32 [B]: the probability that the classifier gives to the wanted class."""
        return np.take_along_axis(self.description.probabilities, self.class_ids[:, None], axis=1)[:, 0]

    @property
    def recognized(self) -> np.ndarray:
        """float64 [B, 1]: 1 where the classifier sees the wanted class."""
        seen = self.description.probabilities.argmax(axis=1)
        return (seen == self.class_ids)[:, None].astype(np.float64)

    def take(self, rows: np.ndarray) -> Drawn:
        """The images of these rows: int [K] or bool [B]."""
        return Drawn(
            self.places[rows],
            self.indices[rows],
            self.class_ids[rows],
            features.Description(*(array[rows] for array in self.description)),
        )


class Draw(beam.DoFn):
    """Place of a batch's first candidate -> `Drawn`."""

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
        places = np.arange(start, min(start + plan.batch_size, plan.candidates), dtype=np.int64)
        indices = plan.indices(places)
        images = _generate(self._generator, plan, indices, self._image_size)
        yield Drawn(places, indices, plan.class_ids(indices), features.look(self._classifier, images))


class DrawAgain(beam.DoFn):
    """Image numbers, at most a batch of them -> (image number, uint8 [S, S, 3]) of each.

    An image follows from its number, so those that are shown need not be kept until it is known which.
    """

    def __init__(self, generator: SavedModel, plan: Plan, image_size: int):
        self._handle = generator
        self._plan = plan
        self._image_size = image_size

    def setup(self) -> None:
        """Loads the generator."""
        self._generator = self._handle.load()

    def process(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Draws them."""
        numbers = np.array(indices, np.int64)
        images = _generate(self._generator, self._plan, numbers, self._image_size)
        yield from zip(numbers.tolist(), images, strict=True)


def _generate(generator: Any, plan: Plan, indices: np.ndarray, image_size: int) -> np.ndarray:
    """The images of these numbers, at most a batch of them: uint8 [B, S, S, 3]."""
    # Always a whole batch, cut afterwards: a generator may compile for the size it meets.
    whole = np.resize(indices, plan.batch_size)
    answer = generator.signatures[GUIDANCE_SCHEDULES[plan.guidance_schedule]](
        class_id=tf.constant(plan.class_ids(whole)),
        seed=tf.constant(plan.row_seeds(whole)),
        temperature=tf.fill([plan.batch_size], plan.temperature),
        top_k=tf.fill([plan.batch_size], plan.top_k),
        top_p=tf.fill([plan.batch_size], plan.top_p),
        guidance=tf.fill([plan.batch_size], plan.guidance),
    )
    pixels = features.decode(answer["image_bytes"][: len(indices)], image_size)
    return features.to_8_bits(pixels.numpy())

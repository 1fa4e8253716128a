"""Sampling a set of images from a generator, so that any worker can sample any part of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.evaluators import features
from components.evaluators.features import FeatureNetwork, Features
from components.evaluators.models import SavedModel
from serving.export.sampling_params import SamplingParams


class SamplingPlan(NamedTuple):
    """The set to sample: image i is of class i % classes and has its own seed.

    Of N samples and C classes, class c has n_c = N // C, and one more if c < N % C. With an acceptance r
    below 1, ceil(n_c / r) candidates of it are sampled, so that every class is selected from at least as many
    as r asks for. Candidate number k of class c is image k C + c: for every r, the first candidates of a
    class are the images that acceptance 1 samples.
    """

    samples: int
    classes: int  # 0: unconditional
    batch_size: int
    acceptance: float  # in (0, 1]
    params: SamplingParams

    @property
    def candidates(self) -> int:
        """How many images are sampled: `samples` at acceptance 1."""
        rounds, more = self._rounds()
        return rounds * self._cycle + (more - rounds) * (self.samples % self._cycle)

    def starts(self) -> list[int]:
        """The place of each batch's first candidate."""
        return list(range(0, self.candidates, self.batch_size))

    def indices(self, places: np.ndarray) -> np.ndarray:
        """The image numbers of candidates, int64 [B], by their places in [0, candidates).

        All classes take turns; then come the candidates that only the first N % C classes have.
        """
        rounds, _ = self._rounds()
        common = rounds * self._cycle
        first = max(self.samples % self._cycle, 1)
        rest = places - common
        beyond = (rounds + rest // first) * self._cycle + rest % first
        return np.where(places < common, places, beyond).astype(np.int64)

    def class_ids(self, indices: np.ndarray) -> np.ndarray:
        """int32 [B]; 0 without classes."""
        return (indices % self._cycle).astype(np.int32)

    def row_seeds(self, indices: np.ndarray) -> np.ndarray:
        """int64 [B]: the set's seed in the upper half, the image number in the lower, so all are distinct."""
        return (np.int64(self.params.seed % 2**31) << np.int64(32)) + indices.astype(np.int64)

    @property
    def _cycle(self) -> int:
        return max(self.classes, 1)

    def _rounds(self) -> tuple[int, int]:
        """Candidates of a class with N // C samples, and of one with a sample more."""
        # The decimal number as it was written: as a binary one, 0.1 is a little more than a tenth.
        acceptance = Fraction(str(self.acceptance))
        fewer = self.samples // self._cycle
        return math.ceil(fewer / acceptance), math.ceil((fewer + 1) / acceptance)


class Samples(NamedTuple):
    """B sampled images, as their features."""

    places: np.ndarray  # int64 [B], in the set of all candidates, or of those kept
    indices: np.ndarray  # int64 [B], image numbers of the plan
    class_ids: np.ndarray  # int32 [B], the requested ones
    features: Features

    @property
    def requested_probability(self) -> np.ndarray:
        """float32 [B]: the probability of the requested class."""
        return np.take_along_axis(self.features.probabilities, self.class_ids[:, None], axis=1)[:, 0]

    @property
    def recognized(self) -> np.ndarray:
        """float64 [B, 1]: 1 where the requested class is the most likely."""
        predicted = self.features.probabilities.argmax(axis=1)
        return (predicted == self.class_ids)[:, None].astype(np.float64)

    def take(self, rows: np.ndarray) -> Samples:
        """The images of these rows: int [K] or bool [B]."""
        return Samples(
            self.places[rows],
            self.indices[rows],
            self.class_ids[rows],
            Features(*(array[rows] for array in self.features)),
        )


class DrawSamples(beam.DoFn):
    """Place of a batch's first candidate -> `Samples`."""

    def __init__(self, generator: SavedModel, network: FeatureNetwork, plan: SamplingPlan, image_size: int):
        self._handle = generator
        self._network = network
        self._plan = plan
        self._image_size = image_size

    def setup(self) -> None:
        """Load generator and feature network."""
        self._generator, self._extract = self._handle.load(), self._network.load()

    def process(self, start: int) -> Iterator[Samples]:
        """Sample one batch and compute its features."""
        plan = self._plan
        places = np.arange(start, min(start + plan.batch_size, plan.candidates), dtype=np.int64)
        indices = plan.indices(places)
        images = _generate(self._generator, plan, indices, self._image_size)
        yield Samples(places, indices, plan.class_ids(indices), self._extract(images))


class RedrawImages(beam.DoFn):
    """Image numbers, at most a batch of them -> (image number, uint8 [S, S, 3]) of each.

    An image follows from its number, so the images to show need not be kept until it is known which they are.
    """

    def __init__(self, generator: SavedModel, plan: SamplingPlan, image_size: int):
        self._handle = generator
        self._plan = plan
        self._image_size = image_size

    def setup(self) -> None:
        """Load the generator."""
        self._generator = self._handle.load()

    def process(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Sample these images again."""
        numbers = np.array(indices, np.int64)
        images = _generate(self._generator, self._plan, numbers, self._image_size)
        yield from zip(numbers.tolist(), images, strict=True)


def _generate(generator: Any, plan: SamplingPlan, indices: np.ndarray, image_size: int) -> np.ndarray:
    """The images of these numbers, at most a batch of them: uint8 [B, S, S, 3]."""
    # Always a whole batch, cut afterwards: a generator may be compiled for each batch size.
    whole = np.resize(indices, plan.batch_size)
    inputs = plan.params.inputs(plan.class_ids(whole), plan.row_seeds(whole))
    answer = generator.signatures[plan.params.signature](
        **{name: tf.constant(values) for name, values in inputs.items()}
    )
    pixels = features.decode(answer["image_bytes"][: len(indices)], image_size)
    return features.to_8_bits(pixels.numpy())

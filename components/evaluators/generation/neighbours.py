"""The training images that are nearest to samples: what a model that copies would give away.

The first samples, and the first held-out images to compare with, are looked for in the features of the train
split. Distances are Euclidean, of features and, of the few that are shown, of pixels of thumbnails.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf

from components.evaluators import examples, features, files
from components.evaluators.examples import ImageShard
from components.evaluators.generation.samples import Samples, Shard, images
from components.metrics import neighbours
from components.metrics.distances import Centred
from components.metrics.memorization import Memorization, memorization
from components.metrics.neighbours import Neighbours
from components.reference_statistics.stored import RealImages, thumbnails
from components.sampled_set import SAMPLES, SampledSet

NEIGHBOURS_FILE = "neighbours.npz"
HELD_OUT = "held-out"
# Samples, and held-out images, whose nearest training image is looked for: the first ones.
MEASURED = 1000
# Samples that are shown, the first ones, and their neighbours: so many in features and one in pixels.
SHOWN, NEAREST = 12, 3


class Queries(NamedTuple):
    """What is looked for in the train split.

    Attributes:
      vectors: features float32 [Q, D] of the parts one after the other.
      sizes: of the parts, by name, in order.
      pixels: float32 [K, 3 P^2], thumbnails of the samples that are shown, also the first K vectors.
      shown: uint8 [K, S, S, 3].
      classes: int32 [K], requested.
    """

    vectors: np.ndarray
    sizes: dict[str, int]
    pixels: np.ndarray
    shown: np.ndarray
    classes: np.ndarray

    def nearest(self, found: Found, part: str) -> np.ndarray:
        """float64 [N]: distances of a part's images to their nearest training image."""
        names = list(self.sizes)
        start = sum(self.sizes[name] for name in names[: names.index(part)])
        return np.sqrt(found.features.distances[start : start + self.sizes[part], 0])


class Found(NamedTuple):
    """The nearest of some training images.

    Attributes:
      features: of every query.
      pixels: of every sample that is shown.
    """

    features: Neighbours
    pixels: Neighbours


class MakeQueries(beam.PTransform):
    """Features of images by name, those of `SAMPLES` first -> one `Queries` of the first of each."""

    def __init__(self, found: list[Shard], sampled: SampledSet):
        super().__init__()
        self._found = found
        self._sampled = sampled

    def expand(self, parts: dict[str, beam.PCollection]) -> beam.PCollection:
        """Select, then join."""
        # First, as those that are shown are the first of all.
        parts = {SAMPLES: parts[SAMPLES], **parts}
        lists = {
            name: beam.pvalue.AsSingleton(
                batches
                | f"First {name}" >> beam.FlatMap(first, MEASURED)
                | f"List {name}" >> beam.combiners.ToList()
            )
            for name, batches in parts.items()
        }
        numbers = parts[SAMPLES] | beam.FlatMap(first_numbers) | beam.combiners.ToList()
        return numbers | beam.Map(_join, self._found, self._sampled, list(lists), *lists.values())


def _join(
    shown: list[tuple[np.ndarray, np.ndarray]],
    found: list[Shard],
    sampled: SampledSet,
    names: list[str],
    *parts: list[tuple[np.ndarray, np.ndarray]],
) -> Queries:
    numbers, _ = in_order(shown)
    chosen = images(found, sampled, numbers.tolist())
    pictures = np.stack([chosen[number] for number in numbers.tolist()])
    vectors = [in_order(part)[0] for part in parts]
    return Queries(
        np.concatenate(vectors),
        {name: len(array) for name, array in zip(names, vectors, strict=True)},
        _flat(thumbnails(pictures)),
        pictures,
        sampled.plan.class_ids(numbers),
    )


def in_order(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their places, of (places, rows) in any order, by place."""
    places, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(places)
    return rows[order], places[order]


def first(batch: RealImages | Samples, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(places, features) of the images of a batch whose place is below `count`, if there is any."""
    rows = batch.places < count
    if rows.any():
        yield batch.places[rows], batch.features.features[rows]


def first_numbers(batch: Samples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(places, image numbers) of the samples of a batch that are shown, if there is any."""
    rows = batch.places < SHOWN
    if rows.any():
        yield batch.places[rows], batch.indices[rows]


class FindNearest(beam.DoFn):
    """`RealImages` of the train split -> the `Found` among them."""

    def setup(self) -> None:
        """Nothing is centred yet."""
        self._centred: tuple[Queries, Centred, Centred] | None = None

    def process(self, batch: RealImages, queries: Queries) -> Iterator[Found]:
        """Measure how near the images of one batch are."""
        to_features, to_pixels = self._targets(queries)
        yield Found(
            neighbours.nearest(to_features, batch.features.features, batch.places, NEAREST),
            neighbours.nearest(to_pixels, _flat(batch.thumbnails), batch.places, 1),
        )

    def _targets(self, queries: Queries) -> tuple[Centred, Centred]:
        # A worker may get the same side input anew; equal content has equal centres.
        if self._centred is None or self._centred[0] is not queries:
            self._centred = (queries, Centred(queries.vectors), Centred(queries.pixels))
        return self._centred[1:]


class FoundFn(beam.CombineFn):
    """`Found` of batches -> `Found` of all."""

    def create_accumulator(self) -> list[Found]:
        """Nothing is seen."""
        return []

    def add_input(self, accumulator: list[Found], found: Found) -> list[Found]:
        """Add one batch."""
        return [_merged([*accumulator, found])]

    def merge_accumulators(self, accumulators: Iterable[list[Found]]) -> list[Found]:
        """Merge parts."""
        parts = [found for accumulator in accumulators for found in accumulator]
        return [_merged(parts)] if parts else []

    def extract_output(self, accumulator: list[Found]) -> Found:
        """The nearest of all; there is at least one batch."""
        return accumulator[0]


def compare(found: Found, queries: Queries, part: str) -> Memorization:
    """Whether a part's images are nearer to training images than held-out images are."""
    return memorization(queries.nearest(found, part), queries.nearest(found, HELD_OUT))


def write(found: Found, queries: Queries, train: list[ImageShard], image_size: int, path: str) -> None:
    """Write the samples that are shown and their neighbours among the images of `train`.

    `samples` uint8 [K, S, S, 3], `classes` [K]; of each neighbour `of` (which sample), `by` (0 features, 1
    pixels), `images` uint8 [R, S, S, 3] and `distances`, of features as multiples of the median that held-out
    images have, of pixels the root of the mean squared difference in [0, 1].
    """
    count = len(queries.shown)
    usual = float(np.median(queries.nearest(found, HELD_OUT)))
    rows = [
        (query, by, place, distance)
        for query in range(count)
        for by, near, scale in ((0, found.features, usual), (1, found.pixels, queries.pixels.shape[1] ** 0.5))
        for place, distance in zip(
            near.places[query].tolist(),
            (np.sqrt(near.distances[query]) / (scale or np.nan)).tolist(),
            strict=True,
        )
        if place != neighbours.NOBODY
    ]
    near = examples.images_at(train, {place for _, _, place, _ in rows})
    encoded = tf.constant([near[place] for _, _, place, _ in rows])
    of, by, _, distances = zip(*rows, strict=True)
    files.write_arrays(
        path,
        {
            "samples": queries.shown,
            "classes": queries.classes,
            "of": np.array(of),
            "by": np.array(by),
            "images": features.to_8_bits(features.decode(encoded, image_size).numpy()),
            "distances": np.array(distances, np.float32),
        },
    )


def _merged(parts: list[Found]) -> Found:
    return Found(
        neighbours.merge([part.features for part in parts], NEAREST),
        neighbours.merge([part.pixels for part in parts], 1),
    )


def _flat(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails uint8 [B, P, P, 3] as float32 [B, D] in [0, 1]."""
    return thumbnails.reshape(len(thumbnails), -1) / np.float32(255.0)

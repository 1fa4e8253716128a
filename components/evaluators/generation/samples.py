"""Sampled images as an evaluator reads them: their features, and later the few that are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx.types import Artifact, artifact_utils

from components.evaluators import examples, features
from components.evaluators.features import Features
from components.evaluators.networks import Networks
from components.sampled_set import SampledSet
from serving.export.records import all_records, naming_damage

_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/number": tf.io.FixedLenFeature([], tf.int64),
}


class Shard(NamedTuple):
    """A file of a sampled set: the place of its first image, and how many it has."""

    path: str
    first: int
    records: int


class Samples(NamedTuple):
    """B sampled images, as their features."""

    places: np.ndarray  # int64 [B], in the set of all candidates, or of those kept
    indices: np.ndarray  # int64 [B], image numbers of the plan
    class_ids: np.ndarray  # int32 [B], the requested ones
    features: Features
    recognition: np.ndarray  # float32 [B, C], the recognizer's class probabilities

    @property
    def requested_probability(self) -> np.ndarray:
        """float32 [B]: the probability of the requested class."""
        return np.take_along_axis(self.recognition, self.class_ids[:, None], axis=1)[:, 0]

    @property
    def recognized(self) -> np.ndarray:
        """float64 [B, 1]: 1 where the requested class is the most likely."""
        predicted = self.recognition.argmax(axis=1)
        return (predicted == self.class_ids)[:, None].astype(np.float64)

    def take(self, rows: np.ndarray) -> Samples:
        """The images of these rows: int [K] or bool [B]."""
        return Samples(
            self.places[rows],
            self.indices[rows],
            self.class_ids[rows],
            Features(*(array[rows] for array in self.features)),
            self.recognition[rows],
        )


def read_set(artifact: list[Artifact]) -> SampledSet:
    """The sidecar of an artifact of sampled images."""
    return SampledSet.read(artifact_utils.get_single_uri(artifact))


def shards(artifact: list[Artifact], split: str) -> list[Shard]:
    """The files of a split, in order."""
    files = examples.split_files(artifact, split)
    sampled = read_set(artifact)
    counts = sampled.records_in(split, files)
    return [
        Shard(path, number * sampled.shard_size, count)
        for number, (path, count) in enumerate(zip(files, counts, strict=True))
    ]


class ReadSamples(beam.PTransform):
    """The images of some shards as `Samples`; shards are distributed over workers."""

    def __init__(self, found: list[Shard], networks: Networks, sampled: SampledSet, batch_size: int):
        super().__init__()
        self._found = found
        self._extract = ExtractSamples(networks, sampled, batch_size)

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Samples]:
        """Read, and compute features."""
        return pipeline | beam.Create(self._found) | beam.Reshuffle() | beam.ParDo(self._extract)


class ExtractSamples(beam.DoFn):
    """`Shard` -> `Samples`, a batch each."""

    def __init__(self, networks: Networks, sampled: SampledSet, batch_size: int):
        self._networks = networks
        self._plan = sampled.plan
        self._image_size = sampled.image_size
        self._batch_size = batch_size

    def setup(self) -> None:
        """Load the networks."""
        self._measure = self._networks.load()

    def process(self, shard: Shard) -> Iterator[Samples]:
        """Compute the features of one shard."""
        place = shard.first
        for png, numbers in _read(shard, self._batch_size):
            pixels = features.decode(tf.constant(png), self._image_size)
            places = place + np.arange(len(numbers))
            place += len(numbers)
            yield Samples(
                places,
                numbers,
                self._plan.class_ids(numbers),
                *self._measure(features.to_8_bits(pixels.numpy())),
            )


def images(found: Sequence[Shard], sampled: SampledSet, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """The images of these numbers, uint8 [S, S, 3]; only the shards that hold one are read."""
    wanted = np.array(sorted(numbers), np.int64)
    places = sampled.plan.places(wanted)
    chosen: dict[int, np.ndarray] = {}
    for shard in found:
        if not np.any((places >= shard.first) & (places < shard.first + shard.records)):
            continue
        for png, present in _read(shard, examples.BLOCK):
            for row in np.flatnonzero(np.isin(present, wanted)):
                pixels = features.decode(tf.constant([png[row]]), sampled.image_size)
                chosen[int(present[row])] = features.to_8_bits(pixels.numpy())[0]
    return chosen


def _read(shard: Shard, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """PNG files and image numbers of a shard, a batch each."""
    records = all_records([shard.path], [shard.records]).batch(batch_size)
    with naming_damage([shard.path]):
        for batch in records.map(lambda some: tf.io.parse_example(some, _FEATURES)).as_numpy_iterator():
            yield batch["image/encoded"], batch["image/number"]

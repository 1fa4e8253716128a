"""Image Examples for evaluators: encoded images with keys and labels, in batches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx.dsl.io import fileio
from tfx.types import Artifact, artifact_utils

from components.dataset import Dataset
from serving.export.records import all_records, naming_damage

UNLABELLED = -1
# Records that are read at once when a few of them are wanted.
BLOCK = 64

_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/key": tf.io.FixedLenFeature([], tf.string),
    "image/label": tf.io.FixedLenFeature([], tf.int64, UNLABELLED),
}


class ImageBatch(NamedTuple):
    """B images as stored in the Examples."""

    places: np.ndarray  # int64 [B], in the split
    image_bytes: np.ndarray  # object [B], JPEG or PNG
    keys: np.ndarray  # object [B], bytes
    labels: np.ndarray  # int64 [B], -1 if unlabelled


class ImageShard(NamedTuple):
    """A file of a split: how many images it has, and the place of its first one."""

    path: str
    records: int
    first: int


class ReadImages(beam.PTransform):
    """The images of one split as `ImageBatch`es; shards are distributed over workers."""

    def __init__(self, examples: list[Artifact], split: str, batch_size: int):
        super().__init__()
        self._files = image_shards(examples, split)
        self._batch_size = batch_size

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[ImageBatch]:
        """Read."""
        return (
            pipeline
            | "Shards" >> beam.Create(self._files)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(read_shard, self._batch_size)
        )


def read_dataset(examples: list[Artifact], split: str, batch_size: int) -> tf.data.Dataset:
    """The images of one split in stored order, as dicts of the tensors of an `ImageBatch`, but for places."""
    files = split_files(examples, split)
    return _parse(files, dataset(examples).records_in(split, files), batch_size)


def image_shards(examples: list[Artifact], split: str) -> list[ImageShard]:
    """The files of a split, in order."""
    files = split_files(examples, split)
    counts = dataset(examples).records_in(split, files)
    firsts = itertools.accumulate(counts[:-1], initial=0)
    return [ImageShard(*row) for row in zip(files, counts, firsts, strict=True)]


def images_at(shards: Sequence[ImageShard], places: Iterable[int]) -> dict[int, bytes]:
    """The encoded images at these places of a split; only the files that hold one are read."""
    wanted = np.array(sorted(places), np.int64)
    found: dict[int, bytes] = {}
    for shard in shards:
        own = wanted[(wanted >= shard.first) & (wanted < shard.first + shard.records)]
        if len(own):
            for batch in read_shard(shard, BLOCK):
                for row in np.flatnonzero(np.isin(batch.places, own)):
                    found[int(batch.places[row])] = batch.image_bytes[row]
    return found


def split_files(examples: list[Artifact], split: str) -> list[str]:
    """The TFRecord files of a split, in order."""
    folder = artifact_utils.get_split_uri(examples, split)
    return sorted(os.path.join(folder, str(name)) for name in fileio.listdir(folder))


def dataset(examples: list[Artifact]) -> Dataset:
    """The artifact's sidecar: classes, counts, fingerprint."""
    return Dataset.read(artifact_utils.get_single_uri(examples))


def count(examples: list[Artifact], split: str) -> int:
    """How many images a split holds.

    Raises:
      ValueError: it holds none.
    """
    records = dataset(examples).records(split)
    if not records:
        raise ValueError(f"examples: split {split!r} must hold at least one image, got none")
    return records


def read_shard(shard: ImageShard, batch_size: int) -> Iterator[ImageBatch]:
    """The images of a file, in order.

    Raises:
      DamagedFile: it does not hold what it must.
    """
    place = shard.first
    with naming_damage([shard.path]):
        for batch in _parse([shard.path], [shard.records], batch_size).as_numpy_iterator():
            count = len(batch["keys"])
            yield ImageBatch(places=place + np.arange(count), **batch)
            place += count


def _parse(files: list[str], records: list[int], batch_size: int) -> tf.data.Dataset:
    def parse(records: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(records, _FEATURES)
        return {
            "image_bytes": parsed["image/encoded"],
            "keys": parsed["image/key"],
            "labels": parsed["image/label"],
        }

    return all_records(files, records).batch(batch_size).map(parse).prefetch(tf.data.AUTOTUNE)

"""Sharded TFRecord files whose bytes depend on the records alone, never on the workers.

TFX's own writer shuffles at random, compresses and leaves the number of files to Beam. Here a
record's place follows from a hash of its key: which shard it goes to and where it stands in it. So
neighbours are not all of one class, and the same records give the same files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from tfx import types
from tfx.components.example_gen.utils import PAYLOAD_FORMAT_PROPERTY_NAME
from tfx.types import artifact_utils

from components.atomic import whole_file
from components.dataset import Broken, SplitCounts

BROKEN = "broken"


class Shard(NamedTuple):
    """A file that was written."""

    split: str
    number: int
    records: int
    digest: str  # sha256 over the records in order


class BrokenRecord(Exception):
    """Raised by a `serialize` function for an item that cannot become a record."""


class Item(NamedTuple):
    """Something that will be one record of `split`, placed by `order` (see `order_of`)."""

    split: str
    key: str
    order: bytes
    content: Any


def order_of(key: str, tie: bytes = b"") -> bytes:
    """A record's place: a hash of its key, and of `tie` where keys may repeat."""
    return hashlib.sha256(key.encode()).digest() + hashlib.sha256(tie).digest()


def read_records(path: str) -> Iterator[bytes]:
    """The records of one TFRecord file, gzipped when its name ends in `.gz`."""
    compression = "GZIP" if path.endswith(".gz") else ""
    return tf.data.TFRecordDataset(path, compression_type=compression).as_numpy_iterator()


def serialize_example(features: Mapping[str, bytes | Sequence[int]]) -> bytes:
    """A tf.Example of bytes and integers; the same bytes for the same features."""
    example = tf.train.Example()
    for name, value in features.items():
        if isinstance(value, bytes):
            example.features.feature[name].bytes_list.value.append(value)
        else:
            example.features.feature[name].int64_list.value.extend(value)
    return example.SerializeToString(deterministic=True)


class WriteShards(beam.PTransform):
    """Writes `Item`s to `<directory>/Split-<split>/data_tfrecord-<shard>-of-<shards>`.

    Only the items are shuffled; `serialize` is called where the file is written, one item at a time.
    An item can thus be a mere reference to bytes that are read when their turn comes.

    Each file appears whole or not at all, an empty one where a shard has no record.

    Returns:
      PCollections `shards` of `Shard`, and `broken` of `components.dataset.Broken`: the items for
      which `serialize` raised `BrokenRecord`.
    """

    def __init__(
        self, directory: str, splits: Sequence[str], num_shards: int, serialize: Callable[[Any], bytes]
    ):
        super().__init__()
        self._directory = directory
        self._splits = splits
        self._num_shards = num_shards
        self._serialize = serialize

    def expand(self, items: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        """Groups by shard and writes each."""
        every_shard = [((split, index), None) for split in self._splits for index in range(self._num_shards)]
        return (
            (
                items | "Place" >> beam.Map(_place, self._num_shards),
                items.pipeline | "Every shard" >> beam.Create(every_shard),
            )
            | beam.Flatten()
            | beam.GroupByKey()
            | beam.ParDo(_WriteShard(self._directory, self._num_shards, self._serialize)).with_outputs(
                BROKEN, main="shards"
            )
        )


def _place(item: Item, num_shards: int) -> tuple[tuple[str, int], Item]:
    # Other bits than those that decide on the split and the order within the shard.
    return (item.split, int.from_bytes(item.order[8:16], "big") % num_shards), item


class _WriteShard(beam.DoFn):
    def __init__(self, directory: str, num_shards: int, serialize: Callable[[Any], bytes]):
        self._directory = directory
        self._num_shards = num_shards
        self._serialize = serialize

    def process(self, shard: tuple[tuple[str, int], Iterable[Item | None]]) -> Iterator[Any]:
        (split, index), items = shard
        folder = os.path.join(self._directory, f"Split-{split}")
        tf.io.gfile.makedirs(folder)
        path = os.path.join(folder, f"data_tfrecord-{index:05d}-of-{self._num_shards:05d}")
        records, digest = 0, hashlib.sha256()
        # Drafts stand outside the split's folder, whose every file is read.
        with whole_file(path, self._directory) as draft, tf.io.TFRecordWriter(draft) as writer:
            for item in sorted((item for item in items if item is not None), key=lambda item: item.order):
                try:
                    record = self._serialize(item.content)
                except BrokenRecord as error:
                    yield beam.pvalue.TaggedOutput(BROKEN, Broken(item.key, str(error)))
                    continue
                writer.write(record)
                records += 1
                digest.update(hashlib.sha256(record).digest())
        yield Shard(split, index, records, digest.hexdigest())


def fingerprint(shards: Iterable[Shard]) -> str:
    """16 hex digits over all records of all shards, in order."""
    return hashlib.sha256("".join(shard.digest for shard in sorted(shards)).encode()).hexdigest()[:16]


def count_records(shards: Iterable[Shard], splits: Sequence[str]) -> dict[str, SplitCounts]:
    """The counts of each split, as `Dataset.splits` has them."""
    in_order = sorted(shards, key=lambda shard: shard.number)
    counts = {split: [shard.records for shard in in_order if shard.split == split] for split in splits}
    return {split: {"records": sum(own), "shards": own} for split, own in counts.items()}


def describe_artifact(examples: types.Artifact, splits: Sequence[str]) -> None:
    """Tells TFX what stands in an Examples artifact, for its own components to read."""
    examples.split_names = artifact_utils.encode_split_names(list(splits))
    examples.set_string_custom_property(PAYLOAD_FORMAT_PROPERTY_NAME, "FORMAT_TF_EXAMPLE")
    # No `file_format`: TFX knows "tfrecords_gzip" only, which is what it takes a missing one for, and
    # then tells by the suffix `.gz` whether a file is compressed. Ours are not.

"""Sharded TFRecord files whose bytes depend only on the records, not on the workers.

TFX's own writer shuffles at random, compresses, and lets Beam choose the number of files. Here a hash of
a record's key determines its shard and its position in the shard, so neighbours are not all of one class,
and the same records always result in the same files.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf

from components.dataset import Broken, SplitCounts
from serving.export.atomic import atomic_path
from serving.export.records import DamagedFile
from serving.wire.errors import one_line

BROKEN = "broken"
READ_AT_ONCE = 64


class Shard(NamedTuple):
    """A written file."""

    split: str
    number: int
    records: int
    digest: str  # sha256 over the records in order


# (order, key, content) of an `Item`: Beam encodes plain tuples an order of magnitude faster than named ones.
Placed = tuple[bytes, str, Any]


class BrokenRecord(Exception):
    """Raised by a `serialize` function for an item that cannot become a record."""


class Item(NamedTuple):
    """The input of one record of `split`, positioned by `order` (see `order_of`)."""

    split: str
    key: str
    order: bytes
    content: Any


def order_of(key: str, tie: bytes = b"") -> bytes:
    """Sort key of a record: a hash of its key, and of `tie` if keys may repeat."""
    return hashlib.sha256(key.encode()).digest() + hashlib.sha256(tie).digest()


def read_records(path: str, expected: int | None = None) -> Iterator[bytes]:
    """Yield the records of one TFRecord file, gzipped or not, as its first bytes tell.

    Args:
      path: the file.
      expected: how many records it must hold, if that is known.

    Raises:
      DamagedFile: a record does not match its checksum, or there are more or fewer than expected.
    """
    count = 0
    compression = "GZIP" if _is_gzipped(path) else ""
    records = tf.data.TFRecordDataset(path, compression_type=compression)
    # In batches, because a call into TensorFlow takes longer than reading a small record.
    try:
        for batch in records.batch(READ_AT_ONCE).as_numpy_iterator():
            yield from batch
            count += len(batch)
    except tf.errors.DataLossError as error:
        raise DamagedFile(f"{path} is damaged: {one_line(error)}") from error
    if expected not in (None, count):
        raise DamagedFile(f"{path} must have {expected} records, got {count}")


def _is_gzipped(path: str) -> bool:
    with tf.io.gfile.GFile(path, "rb") as file:
        start = file.read(4096)
    # The three magic bytes alone may also be the length of a first record, 559,903 bytes.
    if not start.startswith(b"\x1f\x8b\x08"):
        return False
    try:
        return bool(zlib.decompressobj(wbits=31).decompress(start))
    except zlib.error:
        return False


def serialize_example(features: Mapping[str, bytes | Sequence[int]]) -> bytes:
    """Serialize a tf.Example of bytes and integers; the same features always give the same bytes."""
    example = tf.train.Example()
    for name, value in features.items():
        if isinstance(value, bytes):
            example.features.feature[name].bytes_list.value.append(value)
        else:
            example.features.feature[name].int64_list.value.extend(value)
    return example.SerializeToString(deterministic=True)


class WriteShards(beam.PTransform):
    """Write lists of `Item`s to `<directory>/Split-<split>/data_tfrecord-<shard>-of-<shards>`.

    Lists, because Beam's overhead per element takes longer than making a small record.

    Only the items are shuffled between workers; the worker that writes a file calls `serialize`, one item
    at a time. So an item can be a reference to bytes that are read only then.

    Each file is written atomically; a shard without records becomes an empty file.

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
        """Group by shard, then write each."""
        every_shard: list[tuple[tuple[str, int], list[Placed]]] = [
            ((split, index), []) for split in self._splits for index in range(self._num_shards)
        ]
        return (
            (
                items | "Place" >> beam.FlatMap(_place, self._num_shards),
                items.pipeline | "Every shard" >> beam.Create(every_shard),
            )
            | beam.Flatten()
            | beam.GroupByKey()
            | beam.ParDo(_WriteShard(self._directory, self._num_shards, self._serialize)).with_outputs(
                BROKEN, main="shards"
            )
        )


def _place(items: Iterable[Item], num_shards: int) -> Iterable[tuple[tuple[str, int], list[Placed]]]:
    by_shard: dict[tuple[str, int], list[Placed]] = defaultdict(list)
    for split, key, order, content in items:
        # Not the first 8 bytes, which determine the split and the order within the shard.
        shard = int.from_bytes(order[8:16], "big") % num_shards
        by_shard[split, shard].append((order, key, content))
    return by_shard.items()


class _WriteShard(beam.DoFn):
    def __init__(self, directory: str, num_shards: int, serialize: Callable[[Any], bytes]):
        self._directory = directory
        self._num_shards = num_shards
        self._serialize = serialize

    def process(self, shard: tuple[tuple[str, int], Iterable[list[Placed]]]) -> Iterator[Any]:
        (split, index), batches = shard
        folder = os.path.join(self._directory, f"Split-{split}")
        tf.io.gfile.makedirs(folder)
        path = os.path.join(folder, f"data_tfrecord-{index:05d}-of-{self._num_shards:05d}")
        records, digest = 0, hashlib.sha256()
        # Drafts stay outside the split's folder, because readers take every file in it.
        with atomic_path(path, self._directory) as draft, tf.io.TFRecordWriter(draft) as writer:
            for _, key, content in sorted(chain.from_iterable(batches), key=itemgetter(0)):
                try:
                    record = self._serialize(content)
                except BrokenRecord as error:
                    yield beam.pvalue.TaggedOutput(BROKEN, Broken(key, str(error)))
                    continue
                writer.write(record)
                records += 1
                digest.update(hashlib.sha256(record).digest())
        yield Shard(split, index, records, digest.hexdigest())


def fingerprint(shards: Iterable[Shard]) -> str:
    """Hash all records of all shards, in order, to 16 hex digits."""
    return hashlib.sha256("".join(shard.digest for shard in sorted(shards)).encode()).hexdigest()[:16]


def count_records(shards: Iterable[Shard], splits: Sequence[str]) -> dict[str, SplitCounts]:
    """Record counts of each split, in the form of `Dataset.splits`."""
    in_order = sorted(shards, key=lambda shard: shard.number)
    counts = {split: [shard.records for shard in in_order if shard.split == split] for split in splits}
    return {split: {"records": sum(own), "shards": own} for split, own in counts.items()}

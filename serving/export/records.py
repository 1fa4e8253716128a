"""TFRecord files that are read to their end: each must hold as many records as were written to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tensorflow as tf

from serving.wire.errors import one_line

# Records that are counted at once, since a call takes longer than reading a small record.
BLOCK = 16


class DamagedFile(OSError):
    """A file that cannot be read to its end, or ends too early; the message names it."""


def counted_records(path: tf.Tensor | str, expected: tf.Tensor | int) -> tf.data.Dataset:
    """The records of one TFRecord file, which must hold `expected` of them.

    A file that was cut between two records looks whole to TensorFlow. Here reading past its end fails with an
    InvalidArgumentError that names it.
    """
    end = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string))
    blocks = tf.data.TFRecordDataset(path).batch(BLOCK).concatenate(end)

    def count(seen: tf.Tensor, block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        records = tf.size(block, tf.int64)
        wanted, got = tf.strings.as_string(expected), tf.strings.as_string(seen)
        message = tf.strings.join([path, " must have ", wanted, " records, got ", got])
        whole = tf.debugging.Assert((records > 0) | (seen == tf.cast(expected, tf.int64)), [message])
        with tf.control_dependencies([whole]):
            return seen + records, tf.identity(block)

    return blocks.scan(tf.constant(0, tf.int64), count).unbatch()


def all_records(files: Sequence[str], counts: Sequence[int]) -> tf.data.Dataset:
    """The records of several files, one file after the other, each counted."""
    pairs = tf.data.Dataset.from_tensor_slices((list(files), tf.constant(counts, tf.int64, [len(files)])))
    return pairs.flat_map(counted_records)


@contextmanager
def naming_damage(files: Sequence[str]) -> Iterator[None]:
    """Name the file when reading fails at a damaged record, which TensorFlow does not.

    Raises:
      DamagedFile: one of the files is damaged.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        # Reading everything again is only worth it where something was damaged.
        look = _damage if isinstance(error, tf.errors.DataLossError) else _absence
        found = next(filter(None, map(look, files)), "")
        if found:
            raise DamagedFile(found) from error
        raise


def _absence(path: str) -> str:
    return "" if tf.io.gfile.exists(path) else f"{path} must be there, got a missing file"


def _damage(path: str) -> str:
    try:
        for _ in tf.data.TFRecordDataset(path).batch(BLOCK):
            pass
    except tf.errors.OpError as error:
        return f"{path} is damaged: {one_line(error)}"
    return ""

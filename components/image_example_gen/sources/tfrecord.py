"""The source `tfrecord:PATTERN`: TFRecords of tf.Example that hold encoded images.

`image/encoded` is required. Optional are `image/key` (default: file name and index), `image/label` and
`image/class`, or the names that ImageNet's records use for them, `image/class/label` and
`image/class/text`. A negative label means none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from google.protobuf.message import DecodeError

from components.image_example_gen.images import Image
from components.image_example_gen.sources.base import SourceError
from components.tfrecords import DamagedFile, read_records
from serving.wire.errors import one_line

LABELS = ("image/label", "image/class/label")
CLASSES = ("image/class", "image/class/text")


class TfRecord:
    """Images of all files that match a pattern; those whose names end in `.gz` are gzipped."""

    class_names: tuple[str, ...] = ()  # only the records hold them

    def __init__(self, pattern: str):
        try:
            self._files = sorted(tf.io.gfile.glob(os.path.expanduser(pattern)))
        except tf.errors.OpError as error:
            raise SourceError(f"tfrecord:{pattern} cannot be read: {one_line(error)}") from error
        if not self._files:
            raise SourceError(f"tfrecord:{pattern} must match a file, got none")

    def version(self) -> str:
        """A hash of the files' names, sizes and modification times, 16 hex digits."""
        digest = hashlib.sha256()
        for file in self._files:
            status = tf.io.gfile.stat(file)
            digest.update(f"{file} {status.length} {status.mtime_nsec}\n".encode())
        return digest.hexdigest()[:16]

    def images(self) -> beam.PTransform:
        """Read file by file."""
        return _ReadImages(self._files)


class _ReadImages(beam.PTransform):
    def __init__(self, files: list[str]):
        super().__init__()
        self._files = files

    def expand(self, root: beam.pvalue.PBegin) -> beam.PCollection:
        return root | beam.Create(self._files) | beam.Reshuffle() | beam.FlatMap(_images_of)


def _images_of(file: str) -> Iterator[Image]:
    try:
        for index, record in enumerate(read_records(file)):
            yield _image(tf.train.Example.FromString(record), f"{os.path.basename(file)}/{index}")
    except (DamagedFile, DecodeError, ValueError) as error:
        raise SourceError(f"tfrecord:{file} must be a TFRecord file of tf.Example: {error}") from error


def _image(example: tf.train.Example, default_key: str) -> Image:
    label = next(iter(_values(example, *LABELS)), -1)
    return Image(
        key=_text(example, "image/key") or default_key,
        label=label if label >= 0 else None,
        class_name=_text(example, *CLASSES) or str(label),
        content=next(iter(_values(example, "image/encoded")), b""),
    )


def _text(example: tf.train.Example, *names: str) -> str:
    return next(iter(_values(example, *names)), b"").decode()


def _values(example: tf.train.Example, *names: str) -> Sequence[Any]:
    """The values of the first non-empty feature among `names`."""
    for name in names:
        feature = example.features.feature.get(name, tf.train.Feature())
        values = feature.bytes_list.value or feature.int64_list.value
        if values:
            return values
    return ()

"""The source `tfrecord:PATTERN`: TFRecords of tf.Example that hold encoded images.

`image/encoded` is required. Optional are `image/key` (default: file name and index), `image/label` and
`image/class`, or the names that ImageNet's records use for them, `image/class/label` and
`image/class/text`; `data.image_feature` and `data.label_feature` name others. A label is one integer of
64 bits, at least 0; -1 means none. Every record is checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from google.protobuf.message import DecodeError

from components.image_example_gen.images import Image
from components.image_example_gen.sources import files
from components.image_example_gen.sources.base import LeftAside, ReadFiles, SourceError
from components.image_example_gen.splits import splits_of_files
from components.tfrecords import DamagedFile, read_records
from serving.wire.errors import one_line

IMAGES = ("image/encoded",)
LABELS = ("image/label", "image/class/label")
CLASSES = ("image/class", "image/class/text")
# Each label up to the largest takes a row of every classifier.
MAX_LABEL = 999_999


class _Features(NamedTuple):
    """Names of the features to read, the first that a record has."""

    image: tuple[str, ...]
    label: tuple[str, ...]


class TfRecord:
    """Images of all files that match a pattern, gzipped or not."""

    ready = True
    class_names: tuple[str, ...] = ()  # only the records hold them
    notes: tuple[str, ...] = ()

    def __init__(self, pattern: str, image_feature: str | None = None, label_feature: str | None = None):
        self._features = _Features(
            (image_feature,) if image_feature else IMAGES,
            LABELS if label_feature is None else (label_feature,) if label_feature else (),
        )
        try:
            self._files = files.matching(pattern)
        except (OSError, tf.errors.OpError) as error:
            raise SourceError(f"tfrecord:{pattern} cannot be read: {one_line(error)}") from error
        if not self._files:
            raise SourceError(f"tfrecord:{pattern} must match a file, got none")
        self._splits = splits_of_files(self._files)

    def version(self) -> str:
        """A hash of the files' names, sizes and modification times, 16 hex digits."""
        return files.version("", (("/".join(map(str, self._features)), file) for file in self._files))

    def scan(self) -> Iterator[Image | LeftAside]:
        """Read file by file."""
        for file, split in self._splits.items():
            yield from _images_of((file, split), self._features)

    def images(self) -> beam.PTransform:
        """Read file by file."""
        return ReadFiles(self._splits, _images_of, self._features)


def _images_of(one: tuple[str, str | None], features: _Features) -> Iterator[Image]:
    file, split = one
    index = 0
    try:
        for index, record in enumerate(read_records(file)):
            example = tf.train.Example.FromString(record)
            if not index:
                _check_image(example, features)
            yield replace(_image(example, features, f"{os.path.basename(file)}/{index}"), split=split)
    except (DamagedFile, DecodeError) as error:
        raise SourceError(f"tfrecord:{file} must be a TFRecord file of tf.Example: {error}") from error
    except ValueError as error:
        raise SourceError(f"tfrecord:{file}, record {index}: {error}") from error


def _image(example: tf.train.Example, features: _Features, default_key: str) -> Image:
    content = _values(example, features.image, "bytes")
    if len(content) > 1:
        raise ValueError(f"{features.image[0]} must be one image, got {len(content)}")
    labels = _values(example, features.label, "int64")
    if len(labels) > 1:
        raise ValueError(
            f"{_named(example, features.label)} must be one label, got {len(labels)}: {list(labels)}"
        )
    label = labels[0] if labels else -1
    if not -1 <= label <= MAX_LABEL:
        raise ValueError(f"{_named(example, features.label)} must be -1 to {MAX_LABEL}, got {label}")
    return Image(
        key=_text(example, "image/key") or default_key,
        label=label if label >= 0 else None,
        class_name=_text(example, *CLASSES) or str(label),
        content=content[0] if content else b"",
    )


def _check_image(example: tf.train.Example, features: _Features) -> None:
    """Check that a file's first record has an image; a later one without is broken, as a damaged one is."""
    if not _named(example, features.image):
        present = ", ".join(sorted(example.features.feature)) or "no feature"
        raise ValueError(
            f"{features.image[0]} must be an image, got none; data.image_feature may name one of {present}"
        )


def _text(example: tf.train.Example, *names: str) -> str:
    value = next(iter(_values(example, names, "bytes")), b"")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{_named(example, names)} must be UTF-8, got {value!r}") from None


def _values(example: tf.train.Example, names: Sequence[str], kind: str) -> Sequence[Any]:
    """The values of the first feature among `names` that has any, which must be of a kind."""
    name = _named(example, names)
    if not name:
        return ()
    feature = example.features.feature[name]
    found = feature.WhichOneof("kind").removesuffix("_list")
    values = getattr(feature, f"{found}_list").value
    if found != kind:
        raise ValueError(f"{name} must be {kind}, got {found}: {values[0]!r}")
    return values


def _named(example: tf.train.Example, names: Sequence[str]) -> str:
    """The first of the names under which the example has values; "" if there is none."""
    for name in names:
        if name in example.features.feature:
            kind = example.features.feature[name].WhichOneof("kind")
            if kind and getattr(example.features.feature[name], kind).value:
                return name
    return ""

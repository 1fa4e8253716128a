"""The source `tfrecord:PATTERN`: TFRecords of tf.Example that hold encoded images.

`image/encoded` is required. Optional are `image/key` (default: file name and index), `image/label` and
`image/class`, or the names that ImageNet's records use for them, `image/class/label` and
`image/class/text`; `data.image_feature` and `data.label_feature` name others. A label is one integer of
64 bits, at least 0; -1 means none. Every record is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError

from components.image_example_gen import file_systems
from components.image_example_gen.classes import MAX_LABEL
from components.image_example_gen.images import Image
from components.image_example_gen.sources import files, tables
from components.image_example_gen.sources.base import Shard, SourceError
from components.image_example_gen.sources.sharded import ShardedSource
from components.tfrecords import read_records
from serving.export.records import DamagedFile

IMAGES = ("image/encoded",)
LABELS = ("image/label", "image/class/label")
CLASSES = ("image/class", "image/class/text")


class _Features(NamedTuple):
    """Names of the features to read, the first that a record has."""

    image: tuple[str, ...]
    label: tuple[str, ...]


class TfRecord(ShardedSource):
    """Images of all files that match a pattern, gzipped or not."""

    class_names: tuple[str, ...] = ()  # only the records hold them

    def __init__(self, pattern: str, image_feature: str | None = None, label_feature: str | None = None):
        features = _Features(
            (image_feature,) if image_feature else IMAGES,
            LABELS if label_feature is None else (label_feature,) if label_feature else (),
        )
        super().__init__(*files.shards("tfrecord", pattern), _images_of, features)
        label = "none" if label_feature == "" else label_feature or " or ".join(LABELS)
        self.notes = (f"image is the feature {features.image[0]}, label {label}",)


def _images_of(shard: Shard, features: _Features) -> Iterator[Image]:
    index = 0
    try:
        with file_systems.on_disk(shard.path) as path:
            for index, record in enumerate(read_records(path)):
                example = tf.train.Example.FromString(record)
                if not index:
                    _check_features(example, features)
                yield replace(_image(example, features, f"{shard.name}/{index}"), split=shard.split)
    except (DamagedFile, DecodeError) as error:
        raise SourceError(f"tfrecord:{shard.path} must be a TFRecord file of tf.Example: {error}") from error
    except ValueError as error:
        raise SourceError(f"tfrecord:{shard.path}, record {index}: {error}") from error


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
        class_name=(_text(example, *CLASSES) or str(label)) if label >= 0 else "",
        content=content[0] if content else b"",
    )


def _check_features(example: tf.train.Example, features: _Features) -> None:
    """Check that a file's first record has an image, and the label if it may have one under another name."""
    present = ", ".join(sorted(example.features.feature)) or "no feature"
    if not _named(example, features.image):
        raise ValueError(
            f"{features.image[0]} must be an image, got none; data.image_feature may name one of {present}"
        )
    asked = features.label and features.label != LABELS
    like = tables.label_like(name for name in example.features.feature if name not in CLASSES)
    if features.label and not _named(example, features.label) and (asked or like):
        raise ValueError(
            f"{features.label[0]} must be a label, got none; data.label_feature may name one of {present}, "
            'or "" for none'
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

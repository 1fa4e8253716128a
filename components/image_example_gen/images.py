"""Verification of a source's image and its conversion to a tf.Example."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from components.image_example_gen import file_systems
from components.image_example_gen.splits import split_of
from components.tfrecords import BrokenRecord, serialize_example
from serving.export import images
from serving.export.metadata import WHITE
from serving.export.standard_image import StandardImage, UnreadableImage, standardize
from serving.wire.errors import one_line


@dataclass(frozen=True)
class Image:
    """An image, as bytes or as the path of a file.

    Attributes:
      key: its stable id.
      label: its class id; None if unlabelled.
      class_name: its class's name.
      split: "train" or "eval" if the source has its own splits.
      path: the file to read if `content` is empty.
      content: the encoded bytes.
    """

    key: str
    label: int | None = None
    class_name: str = ""
    split: str | None = None
    path: str = ""
    content: bytes = b""


def split_of_image(image: Image, shares: Mapping[str, int]) -> str:
    """The image's own split, or by the hash of its key."""
    return image.split or split_of(image.key, shares)


def serialize(image: Image, ground: str = WHITE) -> bytes:
    """Serialize an image to a tf.Example, as people see it, after decoding it completely to verify it.

    Features: `image/encoded` (JPEG or PNG bytes, upright sRGB, see `standard_image.standardize`),
    `image/format` ("jpeg" or "png"), `image/height`, `image/width`, `image/key`, and for labelled images
    `image/label` and `image/class`.

    Args:
      image: the image.
      ground: the colour behind transparent pixels, "#rrggbb".

    Raises:
      BrokenRecord: the image cannot be read or decoded, or is too large.
    """
    standard = _verified(read(image), ground)
    features: dict[str, bytes | Sequence[int]] = {
        "image/encoded": standard.content,
        "image/format": standard.encoding.encode(),
        "image/height": [standard.height],
        "image/width": [standard.width],
        "image/key": image.key.encode(),
    }
    if image.label is not None:
        features["image/label"] = [image.label]
        features["image/class"] = image.class_name.encode()
    return serialize_example(features)


def read(image: Image) -> bytes:
    """The bytes of an image.

    Raises:
      BrokenRecord: its file cannot be read.
    """
    if image.content or not image.path:
        return image.content
    check_regular(image.path)
    try:
        with file_systems.open_file(image.path) as file:
            return file.read()
    except (OSError, tf.errors.OpError) as error:
        raise BrokenRecord(f"cannot be read: {one_line(error)}") from error


def check_regular(path: str) -> None:
    """Check that a path is no pipe or device, whose reading might never end; a missing file passes.

    Raises:
      BrokenRecord: it is one.
    """
    if "://" not in path and os.path.exists(path) and not os.path.isfile(path):
        raise BrokenRecord("cannot be read: is no regular file")


def _verified(content: bytes, ground: str) -> StandardImage:
    if not content:
        raise BrokenRecord("is empty")
    try:
        standard = standardize(content, ground)
        # Also decode as all later readers do, because Pillow accepts a file whose end is missing.
        images.decode(tf.constant(standard.content))
    except UnreadableImage as error:
        raise BrokenRecord(str(error)) from error
    except tf.errors.OpError as error:
        raise BrokenRecord(f"cannot be decoded: {one_line(error)}") from error
    return standard

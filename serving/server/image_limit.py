"""Images in requests that would take more memory than a server gives them, refused by their headers."""

from __future__ import annotations

import io
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError

from serving.export.standard_image import UnreadableImage, read_header
from serving.server.batching import Arrays
from serving.wire.errors import invalid

# The inputs of signatures that hold images, and the feature that holds one in a tf.Example.
INPUT, EXAMPLES, FEATURE = "image_bytes", "examples", "image/encoded"


def check(inputs: Arrays, most_pixels: int) -> None:
    """Check the images of a request before it waits: a PNG of some kilobytes may have 67 million pixels.

    Bytes that are no image pass; the model says what is wrong with them.

    Raises:
      RequestError: INVALID_ARGUMENT at the first image with more pixels.
    """
    for row, content in _images(inputs):
        try:
            header = read_header(io.BytesIO(content))
        except UnreadableImage:
            continue
        if header.width * header.height > most_pixels:
            raise invalid(
                f"{INPUT if INPUT in inputs else FEATURE} must have at most {most_pixels} pixels, "
                f"got {header.width} x {header.height} in row {row}"
            )


def _images(inputs: Arrays) -> Iterator[tuple[int, bytes]]:
    """Row and content of every image in the inputs."""
    yield from enumerate(inputs[INPUT].flat if INPUT in inputs else ())
    for row, serialized in enumerate(inputs[EXAMPLES].flat if EXAMPLES in inputs else ()):
        try:
            example = tf.train.Example.FromString(serialized)
        except DecodeError:
            continue
        for content in example.features.feature[FEATURE].bytes_list.value:
            yield row, content

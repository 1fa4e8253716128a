"""One image on its way from a source to a tf.Example."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
import tensorflow as tf

from components.tfrecords import BrokenRecord, serialize_example
from serving.export import images
from serving.wire.errors import one_line

# What Pillow may open at all: the fewer decoders, the fewer surprises from unknown bytes.
READABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Passed on untouched. MPO is what cameras write: a JPEG with more pictures behind the first.
PASSED_ON = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}


@dataclass(frozen=True)
class Image:
    """An image, or where to find it.

    Attributes:
      key: its stable id.
      label: its class's number; None when unlabelled.
      class_name: its class's name.
      split: "train" or "eval" where the source has its own splits.
      path: the file to read it from, unless `content` is at hand.
      content: the encoded bytes.
    """

    key: str
    label: int | None = None
    class_name: str = ""
    split: str | None = None
    path: str = ""
    content: bytes = b""


def serialize(image: Image) -> bytes:
    """The tf.Example of an image that has been decoded once, to the last pixel.

    Features: `image/encoded` (JPEG or PNG bytes), `image/format` ("jpeg" or "png"), `image/height`,
    `image/width`, `image/key`, and for labelled images `image/label` and `image/class`.

    Raises:
      BrokenRecord: where the image cannot be read or decoded.
    """
    encoded, encoding, height, width = _verified(_read(image))
    features: dict[str, bytes | Sequence[int]] = {
        "image/encoded": encoded,
        "image/format": encoding.encode(),
        "image/height": [height],
        "image/width": [width],
        "image/key": image.key.encode(),
    }
    if image.label is not None:
        features["image/label"] = [image.label]
        features["image/class"] = image.class_name.encode()
    return serialize_example(features)


def _read(image: Image) -> bytes:
    if image.content or not image.path:
        return image.content
    try:
        with tf.io.gfile.GFile(image.path, "rb") as file:
            return file.read()
    except tf.errors.OpError as error:
        raise BrokenRecord(f"cannot be read: {one_line(error)}") from error


def _verified(content: bytes) -> tuple[bytes, str, int, int]:
    """Bytes -> (JPEG or PNG bytes, format, height, width), or `BrokenRecord`."""
    if not content:
        raise BrokenRecord("is empty")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=READABLE) as picture:
            width, height = picture.size
            # Evaluators query models, and what models are asked about may not be larger.
            if width * height > images.MAX_PIXELS:
                raise BrokenRecord(f"has {width} x {height} pixels, allowed are {images.MAX_PIXELS}")
            encoding = PASSED_ON.get(picture.format or "")
            if encoding is None:
                content, encoding = _to_png(picture), "png"
        # The decoder of all later readers has the last word: Pillow forgives a missing end of file.
        images.decode(tf.constant(content))
    except BrokenRecord:
        raise
    # Pillow's own words hold the address of a buffer, another one in every run.
    except PIL.UnidentifiedImageError as error:
        raise BrokenRecord("is no image of a known format") from error
    # Pillow's decoders raise anything from SyntaxError to struct.error on bytes they do not like.
    except Exception as error:
        raise BrokenRecord(f"cannot be decoded: {one_line(error)}") from error
    return content, encoding, height, width


def _to_png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()

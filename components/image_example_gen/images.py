"""Verification of a source's image and its conversion to a tf.Example."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
import tensorflow as tf

from components.tfrecords import BrokenRecord, serialize_example
from serving.export import images
from serving.wire.errors import one_line

# The only formats that Pillow may open: fewer decoders are a smaller risk with untrusted bytes.
READABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Stored unchanged. MPO, which cameras write, is a JPEG followed by more images.
PASSED_ON = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}


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


def serialize(image: Image) -> bytes:
    """Serialize an image to a tf.Example, after decoding it completely to verify it.

    Features: `image/encoded` (JPEG or PNG bytes), `image/format` ("jpeg" or "png"), `image/height`,
    `image/width`, `image/key`, and for labelled images `image/label` and `image/class`.

    Raises:
      BrokenRecord: the image cannot be read or decoded, or is too large.
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
    """Verify an image: bytes -> (JPEG or PNG bytes, format, height, width), or raise `BrokenRecord`."""
    if not content:
        raise BrokenRecord("is empty")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=READABLE) as picture:
            width, height = picture.size
            # Evaluators send images to models, whose signatures refuse larger ones.
            if width * height > images.MAX_PIXELS:
                raise BrokenRecord(f"must have at most {images.MAX_PIXELS} pixels, got {width} x {height}")
            encoding = PASSED_ON.get(picture.format or "")
            if encoding is None:
                content, encoding = _to_png(picture), "png"
        # Also decode as all later readers do, because Pillow accepts a file whose end is missing.
        images.decode(tf.constant(content))
    except BrokenRecord:
        raise
    # Pillow's message contains the address of a buffer, which differs in every run.
    except PIL.UnidentifiedImageError as error:
        raise BrokenRecord("must be an image in a known format") from error
    # Pillow's decoders raise many types on malformed bytes, from SyntaxError to struct.error.
    except Exception as error:
        raise BrokenRecord(f"cannot be decoded: {one_line(error)}") from error
    return content, encoding, height, width


def _to_png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()

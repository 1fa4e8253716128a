"""Images in requests that would take more memory than a server gives them, refused by their headers."""

from __future__ import annotations

import io

from serving.export.standard_image import UnreadableImage, read_header
from serving.server.batching import Arrays
from serving.wire.errors import invalid

INPUT = "image_bytes"


def check(inputs: Arrays, most_pixels: int) -> None:
    """Check the images of a request before it waits: a PNG of some kilobytes may have 67 million pixels.

    Bytes that are no image pass; the model says what is wrong with them.

    Raises:
      RequestError: INVALID_ARGUMENT at the first image with more pixels.
    """
    for row, content in enumerate(inputs[INPUT].flat if INPUT in inputs else ()):
        try:
            header = read_header(io.BytesIO(content))
        except UnreadableImage:
            continue
        if header.width * header.height > most_pixels:
            raise invalid(
                f"{INPUT} must have at most {most_pixels} pixels, "
                f"got {header.width} x {header.height} in row {row}"
            )

"""Images of a run: labelled grids as files, single images for the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from components.run_report.report import Row
from serving.cli.grid import draw_grid

# Images up to this size are embedded in the page unchanged, larger ones as thumbnails, to keep it small.
LOSSLESS_UP_TO = 32
THUMBNAIL = 96


def grid(rows: Sequence[Row]) -> bytes:
    """Encode a grid with one labelled line of images per row as a PNG."""
    return _encode(draw_grid([(label, list(images)) for label, images in rows]), "PNG")


def data_uri(image: np.ndarray) -> str:
    """Encode an image, uint8 [S, S, 3], as a `data:` URI."""
    picture = Image.fromarray(image)
    if len(image) <= LOSSLESS_UP_TO:
        return _uri(_encode(picture, "PNG"), "png")
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return _uri(_encode(picture, "JPEG"), "jpeg")


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, quality=88)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

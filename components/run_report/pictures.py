"""Pictures of a report: PNG grids as files, and images embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from components.run_report.report import Row
from serving.cli.grid import draw_grid

# Images up to this size are embedded unchanged and drawn with sharp pixels; larger ones as WebP, smoothly.
LOSSLESS_UP_TO = 64
# Embedded pixels a side at most: a page of some 300 photographs stays under 8 MB.
EMBEDDED = 256
# A difference of 8 bits is faint: it is shown this many times as strong.
AMPLIFIED = 4


class Picture(NamedTuple):
    """An image on the page.

    Attributes:
      uri: its content.
      alt: what is seen.
      note: shown under it; "" for nothing.
    """

    uri: str
    alt: str
    note: str = ""


def grid(rows: Sequence[Row]) -> bytes:
    """Encode a grid with one labelled line of images per row as a PNG."""
    return _encode(draw_grid([(label, list(images)) for label, images in rows]), "PNG")


def picture(image: np.ndarray, alt: str, note: str = "") -> Picture:
    """Embed an image, uint8 [S, S, 3]."""
    drawn = Image.fromarray(image)
    if len(image) <= LOSSLESS_UP_TO:
        return Picture(_uri(_encode(drawn, "PNG"), "png"), alt, note)
    drawn.thumbnail((EMBEDDED, EMBEDDED), Image.Resampling.LANCZOS)
    return Picture(_uri(_encode(drawn, "WEBP"), "webp"), alt, note)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far two images uint8 [..., S, S, 3] are apart, `AMPLIFIED` times, in the same form."""
    apart = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return np.minimum(AMPLIFIED * apart, 255).astype(np.uint8)


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, quality=82)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

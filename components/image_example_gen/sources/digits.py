"""The source `digits`: scikit-learn's 1,797 handwritten digits of 8x8 pixels in 17 levels.

They ship with the library (Alpaydin and Kaynak 1998, UCI repository), so a run needs no download.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import PIL.Image
import sklearn
from sklearn.datasets import load_digits

from components.image_example_gen.images import Image
from components.image_example_gen.sources.base import LeftAside

LEVELS = 16  # the brightest of the levels 0 to 16


class Digits:
    """Images with keys `digits/0000` to `digits/1796` and classes "0" to "9"."""

    ready = True
    class_names = tuple(str(digit) for digit in range(10))
    notes: tuple[str, ...] = ()

    def version(self) -> str:
        """The version of scikit-learn, which ships the images."""
        return f"scikit-learn-{sklearn.__version__}"

    def scan(self) -> Iterator[Image | LeftAside]:
        """All digits."""
        yield from _images()

    def images(self) -> beam.PTransform:
        """All digits, as greyscale PNGs."""
        return beam.Create(list(_images()))


def _images() -> Iterator[Image]:
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        buffer = io.BytesIO()
        PIL.Image.fromarray(np.round(pixels * 255 / LEVELS).astype(np.uint8)).save(buffer, "PNG")
        yield Image(f"digits/{index:04d}", int(label), str(label), content=buffer.getvalue())

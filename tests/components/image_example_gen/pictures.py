"""Encode and write tiny noise images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image


def encoded(brightness: int = 128, encoding: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    """Encode an image of noise around `brightness`; `size` is (width, height)."""
    noise = np.random.default_rng(brightness).integers(-5, 6, (size[1], size[0], 3))
    pixels = np.clip(brightness + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, encoding)
    return buffer.getvalue()


def write(path: Path, brightness: int = 128, encoding: str = "PNG") -> None:
    """Write such an image to a file; missing parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(brightness, encoding))

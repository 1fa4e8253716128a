"""Sets of images outside of a pipeline: a folder of files, or the .npz that ADM's evaluator takes."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from components.evaluators.features import to_8_bits
from serving.export import images
from serving.export.standard_image import ALL_SUFFIXES, UnreadableImage, to_pixels

_ARRAY = "arr_0.npy"

Levels = NDArray[np.uint8]


class ImageSetError(ValueError):
    """A set that cannot be read; the message is one line."""


@dataclass
class ImageSet:
    """Images in a fixed order.

    Attributes:
      path: of the folder or the file.
      image_size: to which images are cropped and resized; as they are if None.
      count: how many were read so far.
    """

    path: str
    image_size: int | None = None
    count: int = 0
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256, repr=False)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all pixels that were read."""
        return self._digest.hexdigest()[:16]

    def batches(self, size: int) -> Iterator[Levels]:
        """Yield uint8 [B, H, W, 3], B up to `size`.

        Raises:
          ImageSetError: there is no image, one cannot be read, or sizes differ.
        """
        self.count, self._digest = 0, hashlib.sha256()
        waiting: list[Levels] = []
        shape: tuple[int, ...] = ()
        for image in _images(self.path):
            made = image if self.image_size is None else _cropped(image, self.image_size)
            if shape and made.shape != shape:
                raise ImageSetError(
                    f"images of {self.path} must have one size, or --image-size must be given, got "
                    f"{shape[1]} x {shape[0]} and {made.shape[1]} x {made.shape[0]}"
                )
            shape = made.shape
            self._digest.update(f"{made.shape}".encode() + made.tobytes())
            self.count += 1
            waiting.append(made)
            if len(waiting) == size:
                yield np.stack(waiting)
                waiting = []
        if waiting:
            yield np.stack(waiting)
        if not self.count:
            raise ImageSetError(f"{self.path} must have an image, got none")


def has_images(path: str) -> bool:
    """Whether an .npz has images."""
    with zipfile.ZipFile(path) as archive:
        return _ARRAY in archive.namelist()


def _images(path: str) -> Iterator[Levels]:
    if os.path.isdir(path):
        files = sorted(one for one in Path(path).rglob("*") if one.suffix.lower() in ALL_SUFFIXES)
        for file in files:
            try:
                yield np.asarray(to_pixels(file.read_bytes()), np.uint8)
            except (OSError, UnreadableImage) as error:
                raise ImageSetError(f"{file} {error}") from error
    elif zipfile.is_zipfile(path):
        yield from _of_archive(path)
    else:
        raise ImageSetError(f"a set must be a folder of images or an .npz with arr_0, got {path}")


def _of_archive(path: str) -> Iterator[Levels]:
    """Images one by one: 50,000 of 256 pixels are 9.8 GB."""
    with zipfile.ZipFile(path) as archive:
        if _ARRAY not in archive.namelist():
            raise ImageSetError(f"{path} must have the array arr_0, got {', '.join(archive.namelist())}")
        with archive.open(_ARRAY) as file:
            shape = _header(file, path)
            row = int(np.prod(shape[1:]))
            for _ in range(shape[0]):
                content = file.read(row)
                if len(content) < row:
                    raise ImageSetError(f"arr_0 of {path} must have {shape[0]} images, and ends before")
                yield np.frombuffer(content, np.uint8).reshape(shape[1:])


def _header(file: IO[bytes], path: str) -> tuple[int, ...]:
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, by_column, dtype = readers[version](file)
    except (ValueError, KeyError) as error:
        raise ImageSetError(f"arr_0 of {path} must be an array: {error}") from error
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or by_column:
        raise ImageSetError(f"arr_0 of {path} must be uint8 [N, H, W, 3], got {dtype} {list(shape)}")
    return shape


def _cropped(image: Levels, size: int) -> Levels:
    if image.shape[:2] == (size, size):
        return image
    return to_8_bits(images.center_crop(tf.constant(image, tf.float32) / 255.0, size).numpy())

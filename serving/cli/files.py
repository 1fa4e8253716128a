"""Images and tokens on the user's disk, written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.export.atomic import atomic_path
from serving.export.metadata import WHITE
from serving.export.standard_image import UnreadableImage, to_pixels
from serving.wire.errors import ServingError

_MAX_NAME = 60


class FileError(ServingError):
    """A file that cannot be read or written; the message is one line for the user."""


def read_image(path: Path) -> bytes:
    """The bytes of an image file that can be decoded.

    Raises:
      FileError: it cannot be read, or is no image.
    """
    try:
        data = path.read_bytes()
        to_pixels(data)
    except (OSError, UnreadableImage) as error:
        raise FileError(f"{path} {_reason(error)}") from error
    return data


def cropped(image_bytes: bytes, size: int, ground: str = WHITE) -> np.ndarray:
    """The centre square of an image, uint8 [size, size, 3], to show what a model sees.

    Resized by Pillow, so it differs from the graph's (`serving.export.images.center_crop`) by a level or two.
    """
    picture = to_pixels(image_bytes, ground)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def check_output(path: Path, suffixes: Sequence[str]) -> None:
    """Raise FileError if `path` cannot be written, before anything is computed for it.

    Args:
      path: a file with one of the `suffixes`, or with "" among them, a folder that is new or empty.
      suffixes: with their dots.
    """
    if path.suffix not in suffixes:
        kinds = ", ".join(suffix or "nothing (a folder)" for suffix in suffixes)
        raise FileError(f"output must end in {kinds}, got {path}")
    if path.suffix and path.is_dir():
        raise FileError(f"output must be a file, got the folder {path}")
    if not path.suffix and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileError(f"output must be a new or an empty folder, got {path}")


def write_images(
    path: Path,
    images: np.ndarray,
    names: Sequence[str],
    *,
    grid: Callable[[], Image.Image],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write images in the form that the path's suffix names.

    Args:
      path: .png for the grid, .npz for the arrays, no suffix for a folder with a PNG each.
      images: uint8 [N, H, W, 3].
      names: a name an image; file names become `0003_name.png`.
      grid: draws the grid.
      arrays: further arrays for .npz, beside `images`.
    """
    with _draft(path) as target:
        if path.suffix == ".png":
            grid().save(target)
        elif path.suffix == ".npz":
            # To NumPy 2's type hints any of them might be `allow_pickle`.
            np.savez_compressed(target, images=images, **dict[str, Any](arrays))
        else:
            target.mkdir()
            for index, (name, pixels) in enumerate(zip(names, images, strict=True)):
                readable = re.sub(r"[^\w-]+", "_", name)[:_MAX_NAME]
                (target / f"{index:04d}_{readable}.png").write_bytes(png(pixels))


def write_tokens(path: Path, tokens: np.ndarray, names: Sequence[str]) -> None:
    """Write tokens int32 [N, T] with a name a row, as .npz (`tokens`, `names`) or .json (the same)."""
    with _draft(path) as target:
        if path.suffix == ".json":
            target.write_text(json.dumps({"names": list(names), "tokens": tokens.tolist()}))
        else:
            np.savez_compressed(target, tokens=tokens, names=np.array(names))


def read_tokens(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read tokens int32 [N, T] and a name a row from .npz or .json; rows without names are numbered.

    Raises:
      FileError: the file holds something else.
    """
    try:
        if path.suffix == ".json":
            fields = json.loads(path.read_text())
        else:
            with np.load(path, allow_pickle=False) as archive:
                fields = {name: archive[name] for name in archive.files if name in ("tokens", "names")}
        tokens = np.asarray(fields["tokens"])
        names = [str(name) for name in fields.get("names", range(len(tokens)))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} must be an .npz or .json file of tokens, as `encode` writes it") from error
    fits = np.iinfo(np.int32)
    if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu" or len(names) != len(tokens):
        held = f"{tokens.dtype} {list(tokens.shape)}"
        raise FileError(f"tokens in {path} must be integers [N, T], got {held}")
    if tokens.min() < 0 or tokens.max() > fits.max:
        raise FileError(f"tokens in {path} must be in [0, {fits.max}], got {tokens.min()} to {tokens.max()}")
    return tokens.astype(np.int32), names


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A draft of `path` to write to; errors of the disk become one line."""
    try:
        with atomic_path(path) as draft:
            yield Path(draft)
    except OSError as error:
        raise FileError(f"cannot write {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)

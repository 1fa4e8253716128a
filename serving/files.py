"""Pictures and tokens on the user's disk: read with care, written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from serving.errors import ServingError

# What the graph decodes by itself (`serving.images.decode_batch`); any other picture is sent as PNG.
_GRAPH_FORMATS = {"JPEG", "PNG", "BMP"}
_MAX_NAME = 60


class FileError(ServingError):
    """A file that cannot be read or written; the message is one line for the user."""


def read_picture(path: Path) -> bytes:
    """The bytes of a picture in a format that the models read."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            if picture.format in _GRAPH_FORMATS:
                return data
            return png(np.asarray(picture.convert("RGB")))
    # Pillow's decoders raise almost anything on bytes that are no picture.
    except Exception as error:
        raise FileError(f"{path} is no picture, allowed are JPEG, PNG, GIF, BMP and WebP") from error


def cropped(image_bytes: bytes, size: int) -> np.ndarray:
    """What a model sees of a picture, to be looked at: the centre square as uint8 [size, size, 3].

    Pillow's resizing, so it differs from the graph's (`serving.images.center_crop`) by a level or two.
    """
    with Image.open(io.BytesIO(image_bytes)) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def check_output(path: Path, suffixes: Sequence[str]) -> None:
    """Raises FileError where `path` cannot be written, before anything is computed for it.

    Args:
      path: a file with one of the `suffixes`, or with "" among them, a folder that is new or empty.
      suffixes: what is allowed, with their dots.
    """
    if path.suffix not in suffixes:
        allowed = ", ".join(suffix or "a folder" for suffix in suffixes)
        raise FileError(f"output {path} ends in {path.suffix or 'nothing'!r}, allowed are {allowed}")
    if path.suffix and path.is_dir():
        raise FileError(f"output {path} is a folder, allowed is a file")
    if not path.suffix and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileError(f"output {path} exists, allowed is a new or an empty folder")


def write_pictures(
    path: Path,
    pictures: np.ndarray,
    names: Sequence[str],
    *,
    grid: Callable[[], Image.Image],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Writes pictures in the form that the path's suffix asks for.

    Args:
      path: .png for the grid, .npz for the arrays, no suffix for a folder with a PNG each.
      pictures: uint8 [N, H, W, 3].
      names: what each shows; file names become `0003_name.png`.
      grid: draws the grid, if it is wanted.
      arrays: what .npz holds beside `images`.
    """
    with _unfinished(path) as target:
        if path.suffix == ".png":
            grid().save(target)
        elif path.suffix == ".npz":
            np.savez_compressed(target, images=pictures, **arrays)
        else:
            target.mkdir()
            for index, (name, pixels) in enumerate(zip(names, pictures, strict=True)):
                readable = re.sub(r"[^\w-]+", "_", name)[:_MAX_NAME]
                (target / f"{index:04d}_{readable}.png").write_bytes(png(pixels))


def write_tokens(path: Path, tokens: np.ndarray, names: Sequence[str]) -> None:
    """Writes tokens int32 [N, T] with a name a row, as .npz (`tokens`, `names`) or .json (the same)."""
    with _unfinished(path) as target:
        if path.suffix == ".json":
            target.write_text(json.dumps({"names": list(names), "tokens": tokens.tolist()}))
        else:
            np.savez_compressed(target, tokens=tokens, names=np.array(names))


def read_tokens(path: Path) -> tuple[np.ndarray, list[str]]:
    """(tokens int32 [N, T], a name a row) from .npz or .json; rows without names are numbered.

    Raises:
      FileError: where the file holds something else.
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
        raise FileError(f"{path} holds no tokens, allowed are .npz and .json of `encode`") from error
    fits = np.iinfo(np.int32)
    if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu" or len(names) != len(tokens):
        held = f"{tokens.dtype} {list(tokens.shape)}"
        raise FileError(f"tokens in {path} are {held}, allowed are integers [N, T]")
    if tokens.min() < 0 or tokens.max() > fits.max:
        raise FileError(f"tokens in {path} are {tokens.min()} to {tokens.max()}, allowed are 0 to {fits.max}")
    return tokens.astype(np.int32), names


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A path on the same disk to write to, which takes the place of `path` once all went well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield folder / path.name
            os.replace(folder / path.name, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise FileError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error

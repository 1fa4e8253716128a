"""Images, tokens and classes on the user's disk, written whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from serving.export.atomic import atomic_path
from serving.export.metadata import MAX_PIXELS, WHITE
from serving.export.standard_image import UnreadableImage, fitted, to_pixels
from serving.wire.errors import ServingError, one_line

_MAX_NAME = 60


class FileError(ServingError):
    """A file that cannot be read or written; the message is one line for the user."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of an image file that can be decoded, or of a smaller picture if it has more pixels.

    Raises:
      FileError: it cannot be read, or is no image.
    """
    try:
        data = path.read_bytes()
        to_pixels(data)
        return fitted(data, max_pixels)
    except (OSError, UnreadableImage) as error:
        raise FileError(f"{path} {_reason(error)}") from error


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
            _write_pngs(target, zip(names, images, strict=True))


def write_folder(path: Path, images: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write named images, uint8 [H, W, 3], to a folder; few are in memory at a time."""
    with _draft(path) as target:
        _write_pngs(target, images)


def _write_pngs(folder: Path, images: Iterable[tuple[str, np.ndarray]]) -> None:
    folder.mkdir()
    for index, (name, pixels) in enumerate(images):
        readable = re.sub(r"[^\w-]+", "_", name)[:_MAX_NAME]
        (folder / f"{index:04d}_{readable}.png").write_bytes(png(pixels))


def write_tokens(path: Path, parts: Iterable[tuple[np.ndarray, Sequence[str]]]) -> None:
    """Write tokens with a name a row.

    Args:
      path: .npz (`tokens`, `names`), .json (the same), or .tfrecord: a tf.Example a row with `tokens` and
        `image/key`, as TokenTransform names them.
      parts: of the rows, (tokens int32 [n, T], n names).
    """
    with _draft(path) as target:
        if path.suffix == ".tfrecord":
            _write_examples(target, parts)
            return
        rows = list(parts)
        tokens, names = np.concatenate([own for own, _ in rows]), [name for _, own in rows for name in own]
        if path.suffix == ".json":
            target.write_text(json.dumps({"names": names, "tokens": tokens.tolist()}))
        else:
            np.savez_compressed(target, tokens=tokens, names=np.array(names))


def write_classes(
    path: Path, names: Sequence[str], probabilities: np.ndarray, class_names: Sequence[str]
) -> None:
    """Write the most probable class of each image.

    Args:
      path: .csv (name, class, probability), .json (the same a row, and all probabilities by class), or .npz
        (`names`, `class_id`, `probabilities`, `class_names`).
      names: of the images.
      probabilities: float32 [N, C].
      class_names: of the C classes.
    """
    best = probabilities.argmax(axis=1)
    rows = [
        {"name": name, "class": class_names[one], "probability": round(float(own[one]), 6)}
        for name, one, own in zip(names, best, probabilities, strict=True)
    ]
    with _draft(path) as target:
        if path.suffix == ".csv":
            with open(target, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                table = csv.DictWriter(file, ["name", "class", "probability"])
                table.writeheader()
                table.writerows(rows)
        elif path.suffix == ".json":
            for row, own in zip(rows, probabilities.tolist(), strict=True):
                row["probabilities"] = dict(zip(class_names, own, strict=True))
            target.write_text(json.dumps(rows, indent=1))
        else:
            np.savez_compressed(
                target,
                names=np.array(names),
                class_id=best.astype(np.int32),
                probabilities=probabilities,
                class_names=np.array(class_names),
            )


def _write_examples(path: Path, parts: Iterable[tuple[np.ndarray, Sequence[str]]]) -> None:
    import tensorflow as tf

    try:
        with tf.io.TFRecordWriter(os.fspath(path)) as writer:
            for tokens, names in parts:
                for row, name in zip(tokens, names, strict=True):
                    example = tf.train.Example()
                    example.features.feature["tokens"].int64_list.value.extend(row.tolist())
                    example.features.feature["image/key"].bytes_list.value.append(os.fsencode(name))
                    writer.write(example.SerializeToString())
    except tf.errors.OpError as error:
        raise OSError(one_line(error)) from error


def _read_examples(path: Path) -> dict[str, Any]:
    import tensorflow as tf

    fields: dict[str, list[Any]] = {"tokens": [], "names": []}
    try:
        for record in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            fields["tokens"].append(list(feature["tokens"].int64_list.value))
            fields["names"] += [os.fsdecode(name) for name in feature["image/key"].bytes_list.value]
    # Of a damaged file, and of records that are no tf.Examples.
    except (tf.errors.OpError, DecodeError) as error:
        raise ValueError(one_line(error)) from error
    return fields if fields["names"] else {"tokens": fields["tokens"]}


def read_tokens(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read tokens int32 [N, T] and a name a row from .npz, .json or .tfrecord.

    Rows without names are numbered.

    Raises:
      FileError: the file holds something else.
    """
    try:
        if path.suffix == ".json":
            fields = json.loads(path.read_text())
        elif path.suffix == ".tfrecord":
            fields = _read_examples(path)
        else:
            with np.load(path, allow_pickle=False) as archive:
                fields = {name: archive[name] for name in archive.files if name in ("tokens", "names")}
        tokens = np.asarray(fields["tokens"])
        names = [str(name) for name in fields.get("names", range(len(tokens)))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(
            f"{path} must be an .npz, .json or .tfrecord file of tokens, as `encode` writes it"
        ) from error
    fits = np.iinfo(np.int32)
    if len(names) != len(tokens):
        raise FileError(f"names in {path} must be one for each of {len(tokens)} rows, got {len(names)}")
    if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu":
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

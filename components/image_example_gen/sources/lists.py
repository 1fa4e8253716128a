"""Split lists: text files beside a folder's images that name the images of each split.

    DIR/train.txt       one path relative to DIR per line
    DIR/val.txt         likewise; or the first of valid.txt, validation.txt, eval.txt, test.txt

Suffixes are ignored, so a list of `00012.npy` also fits a folder of `00012.png`. Images that no list names
are skipped.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable

import tensorflow as tf

from components.image_example_gen.sources.base import SourceError

# Names of the held-out split, as a folder or a list; the first that exists is used.
EVAL_NAMES = ("val", "valid", "validation", "eval", "test")


def find(directory: str) -> dict[str, str]:
    """Find the lists: split -> file name; empty if there are none.

    Raises:
      SourceError: there is train.txt, but no list of the held-out images.
    """
    names = [
        name for name in ("train", *EVAL_NAMES) if tf.io.gfile.exists(os.path.join(directory, f"{name}.txt"))
    ]
    if "train" not in names:
        return {}
    if len(names) == 1:
        lists = ", ".join(f"{name}.txt" for name in EVAL_NAMES)
        raise SourceError(f"folder:{directory} must have one of {lists} beside train.txt, got none")
    return {"train": "train.txt", "eval": f"{names[1]}.txt"}


def read(directory: str) -> dict[str, str]:
    """Read the lists of a folder: `stem` of an image -> its split.

    Raises:
      SourceError: an image is in both lists.
    """
    splits: dict[str, str] = {}
    for split, own in find(directory).items():
        with tf.io.gfile.GFile(os.path.join(directory, own)) as file:
            for name in filter(None, map(str.strip, file.read().splitlines())):
                if splits.setdefault(stem(name), split) != split:
                    raise SourceError(f"folder:{directory} must have {name} in one list, got both")
    return splits


def check(directory: str, files: Iterable[str]) -> None:
    """Check that every image in the lists of a folder exists.

    Raises:
      SourceError: a list names a missing image.
    """
    missing = read(directory).keys() - {stem(file) for file in files}
    if missing:
        raise SourceError(
            f"folder:{directory} must have all images in its lists, "
            f"got {len(missing)} missing, the first {min(missing)}"
        )


def stem(path: str) -> str:
    """The path without its suffix, by which list entries and files are matched."""
    return posixpath.splitext(posixpath.normpath(path))[0]

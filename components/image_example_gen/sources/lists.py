"""Split lists: text files beside a folder's images that name the images of each split.

    DIR/train.txt       a path in DIR a line
    DIR/val.txt         likewise; or valid.txt, validation.txt, eval.txt, test.txt, the first of these

Suffixes do not count, so that a list of `00012.npy` also serves a folder of `00012.png`. An image that no
list names is left aside.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable

import tensorflow as tf

from components.image_example_gen.sources.base import SourceError

# What the part held out may be called, as a folder or a list; the first that is there counts.
EVAL_NAMES = ("val", "valid", "validation", "eval", "test")


def find(directory: str) -> dict[str, str]:
    """Split -> the name of its list; empty where there is none.

    Raises:
      SourceError: there is a list of the training images and none of the others.
    """
    names = [
        name for name in ("train", *EVAL_NAMES) if tf.io.gfile.exists(os.path.join(directory, f"{name}.txt"))
    ]
    if "train" not in names:
        return {}
    if len(names) == 1:
        lists = ", ".join(f"{name}.txt" for name in EVAL_NAMES)
        raise SourceError(f"folder:{directory} has the list train.txt and, beside it, none of {lists}")
    return {"train": "train.txt", "eval": f"{names[1]}.txt"}


def read(directory: str) -> dict[str, str]:
    """Image -> its split, by the lists of a folder; images are `stem`s.

    Raises:
      SourceError: an image is in both lists.
    """
    splits: dict[str, str] = {}
    for split, own in find(directory).items():
        with tf.io.gfile.GFile(os.path.join(directory, own)) as file:
            for name in filter(None, map(str.strip, file.read().splitlines())):
                if splits.setdefault(stem(name), split) != split:
                    raise SourceError(f"folder:{directory} has {name} in both of its lists")
    return splits


def check(directory: str, files: Iterable[str]) -> None:
    """Compares the lists of a folder with the files that are there.

    Raises:
      SourceError: a list names an image that is not there.
    """
    missing = read(directory).keys() - {stem(file) for file in files}
    if missing:
        raise SourceError(
            f"folder:{directory} lacks {len(missing)} of the images in its lists, the first is {min(missing)}"
        )


def stem(path: str) -> str:
    """What a list and a file have in common: the path without its suffix."""
    return posixpath.splitext(posixpath.normpath(path))[0]
